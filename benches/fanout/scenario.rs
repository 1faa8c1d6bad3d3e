//! What is measured: for each figure of the table in the README, the runs that stand side by side, and what is held
//! against what.

use super::figures::Comparison;
use super::process::Kind;

/// How big a scenario is run.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub entities: u32,
    /// Where a million is asked for.
    pub million: u32,
    /// Changes measured, or seconds.
    pub changes: u32,
}

/// When the server is read, and what the figures are.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Between two changes and as many later, one each so many seconds: CPU a NOTIFY.
    Changes { count: u32, every_s: f64 },
    /// From before the first SUBSCRIBE until everybody had answered the first NOTIFY: CPU a subscription.
    Subscribing,
    /// For so many seconds in which nothing changes, after so many to settle: share of the core.
    Idle { settle_s: u32, seconds: u32 },
    /// For so many seconds of changes at this rate: everybody must be at the newest view at the end.
    Storm { seconds: u32, rate: u32 },
}

#[derive(Debug, Clone)]
pub struct Variant {
    pub name: &'static str,
    pub server: Kind,
    pub cores: Option<&'static str>,
    pub flags: Vec<String>,
    pub entities: u32,
    pub load: Vec<String>,
    pub measure: Measure,
    /// Entities may be told late or not at all only where the load loses on purpose, and only Fanfare repeats.
    pub must_be_right: bool,
    /// No drop, no retransmission.
    pub must_lose_nothing: bool,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    /// Into so many equal windows a run's time is divided, each with figures of its own: a stand of a million takes minutes.
    pub windows: u32,
    pub variants: Vec<Variant>,
    pub comparisons: Vec<Comparison>,
}

pub const NAMES: [&str; 10] = [
    "own",
    "shared",
    "flat",
    "memory",
    "subscribing",
    "idle",
    "lossy",
    "storm",
    "herd",
    "shards",
];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn variant(
    name: &'static str,
    server: Kind,
    flags: &str,
    entities: u32,
    load: &str,
    measure: Measure,
) -> Variant {
    let shards = if server == Kind::Fanfare && !flags.contains("--shards") {
        "--shards 1 "
    } else {
        ""
    };
    Variant {
        name,
        server,
        cores: None,
        flags: words(&format!("{shards}{flags}")),
        entities,
        load: words(load),
        measure,
        must_be_right: server == Kind::Fanfare,
        must_lose_nothing: server == Kind::Fanfare,
    }
}

fn ratio(
    says: &'static str,
    figure: &'static str,
    of: &'static str,
    over: &'static str,
    most: f64,
) -> Comparison {
    Comparison {
        says,
        figure,
        of,
        over,
        over_figure: figure,
        times: 1.0,
        most,
    }
}

const OWN: &str = "--own-address --sockets 16";
const SHARED: &str = "--hops 8 --sockets 8";
const CPU: &str = "CPU us";
const LAST: &str = "to the last ms";

pub fn scenario(name: &str, size: Size) -> Option<Scenario> {
    use Kind::{Fanfare, Minimal};
    let Size {
        entities,
        million,
        changes,
    } = size;
    let steady = Measure::Changes {
        count: changes,
        every_s: 1.0,
    };
    // A million take nine seconds each time.
    let slow = Measure::Changes {
        count: changes,
        every_s: 12.0,
    };
    Some(match name {
        "own" => Scenario {
            name: "own",
            title: "A change told to entities that are each their own next hop",
            windows: 1,
            variants: vec![
                variant("fanfare", Fanfare, "", entities, OWN, steady),
                variant("minimal", Minimal, "", entities, OWN, steady),
                variant("bare", Minimal, "--bare", entities, OWN, steady),
                variant(
                    "fanfare, 212992",
                    Fanfare,
                    "--rcvbuf 212992",
                    entities,
                    OWN,
                    steady,
                ),
                variant(
                    "minimal, 212992",
                    Minimal,
                    "--rcvbuf 212992",
                    entities,
                    OWN,
                    steady,
                ),
                variant("fanfare, mmsg", Fanfare, "--io mmsg", entities, OWN, steady),
            ],
            comparisons: vec![
                ratio(
                    "server CPU a NOTIFY exchange, of the minimal notifier's",
                    CPU,
                    "fanfare",
                    "minimal",
                    1.15,
                ),
                ratio(
                    "time to the last, of the minimal notifier's",
                    LAST,
                    "fanfare",
                    "minimal",
                    1.15,
                ),
                ratio(
                    "the same with --rcvbuf 212992: CPU",
                    CPU,
                    "fanfare, 212992",
                    "minimal, 212992",
                    1.15,
                ),
                ratio(
                    "the same with --rcvbuf 212992: time",
                    LAST,
                    "fanfare, 212992",
                    "minimal, 212992",
                    1.15,
                ),
            ],
        },
        "shared" => Scenario {
            name: "shared",
            title: "A change told to entities behind 8 next hops that answer singly",
            windows: 1,
            variants: vec![
                variant("fanfare", Fanfare, "", entities, SHARED, steady),
                variant(
                    "fanfare, singly",
                    Fanfare,
                    "--gso false",
                    entities,
                    SHARED,
                    steady,
                ),
                variant("minimal", Minimal, "", entities, SHARED, steady),
                variant(
                    "minimal, singly",
                    Minimal,
                    "--no-gso",
                    entities,
                    SHARED,
                    steady,
                ),
            ],
            comparisons: vec![
                ratio(
                    "server CPU a NOTIFY exchange, of the singly-sent",
                    CPU,
                    "fanfare",
                    "fanfare, singly",
                    0.70,
                ),
                ratio(
                    "the minimal notifier's, of its own singly-sent",
                    CPU,
                    "minimal",
                    "minimal, singly",
                    f64::INFINITY,
                ),
                ratio(
                    "server CPU, of the minimal notifier's",
                    CPU,
                    "fanfare",
                    "minimal",
                    f64::INFINITY,
                ),
                ratio(
                    "time to the last, of the minimal notifier's",
                    LAST,
                    "fanfare",
                    "minimal",
                    f64::INFINITY,
                ),
            ],
        },
        "flat" => Scenario {
            name: "flat",
            title: "CPU a NOTIFY at a million entities, each its own next hop",
            windows: changes,
            variants: vec![
                variant("million", Fanfare, "", million, OWN, slow),
                variant("few", Fanfare, "", entities, OWN, steady),
                variant(
                    "million, 212992",
                    Fanfare,
                    "--rcvbuf 212992",
                    million,
                    OWN,
                    slow,
                ),
            ],
            comparisons: vec![ratio(
                "CPU a NOTIFY at the million, of that at few",
                CPU,
                "million",
                "few",
                1.25,
            )],
        },
        "memory" => Scenario {
            name: "memory",
            title: "Resident memory of a million subscriptions with identifiers of the field's lengths",
            windows: 1,
            variants: vec![
                variant("shared next hops", Fanfare, "", million, SHARED, slow),
                variant(
                    "with a Record-Route of 70 bytes",
                    Fanfare,
                    "",
                    million,
                    "--hops 8 --sockets 8 --record-route",
                    slow,
                ),
                variant("own next hops", Fanfare, "", million, OWN, slow),
            ],
            comparisons: vec![],
        },
        "subscribing" => Scenario {
            name: "subscribing",
            title: "SUBSCRIBE, 200, the first NOTIFY, 200",
            windows: 1,
            variants: vec![
                variant(
                    "fanfare",
                    Fanfare,
                    "",
                    entities,
                    "--own-address --sockets 16 --servers 1",
                    Measure::Subscribing,
                ),
                variant(
                    "bare",
                    Minimal,
                    "--bare",
                    entities,
                    "--own-address --sockets 16 --servers 1",
                    steady,
                ),
            ],
            comparisons: vec![Comparison {
                says: "CPU of a new subscription, of two bare exchanges",
                figure: CPU,
                of: "fanfare",
                over: "bare",
                over_figure: CPU,
                times: 2.0,
                most: 1.7,
            }],
        },
        "idle" => {
            let idle = Measure::Idle {
                settle_s: 65,
                seconds: changes * 15,
            };
            let load = "--own-address --sockets 16 --servers 1";
            Scenario {
                name: "idle",
                title: "A million idle subscriptions, told every 60 s that nothing changed",
                windows: changes,
                variants: vec![
                    variant(
                        "fanfare",
                        Fanfare,
                        "--refresh-interval 60s",
                        million,
                        load,
                        idle,
                    ),
                    variant("bare", Minimal, "--bare --periodic 60", million, load, idle),
                ],
                comparisons: vec![ratio(
                    "CPU an exchange, of the bare loop's with the same slots",
                    CPU,
                    "fanfare",
                    "bare",
                    1.4,
                )],
            }
        }
        "lossy" => {
            let mut lossy = variant(
                "lossy",
                Fanfare,
                "",
                entities,
                "--own-address --sockets 16 --loss 0.01 --dead 0.05",
                steady,
            );
            lossy.must_lose_nothing = false;
            Scenario {
                name: "lossy",
                title: "5 % dead entities and 1 % loss",
                windows: 1,
                variants: vec![variant("clean", Fanfare, "", entities, OWN, steady), lossy],
                comparisons: vec![ratio(
                    "p98 of the live, of the clean run's",
                    "p98 ms",
                    "lossy",
                    "clean",
                    1.3,
                )],
            }
        }
        "storm" => Scenario {
            name: "storm",
            title: "A change every 10 ms",
            windows: 1,
            variants: vec![variant(
                "fanfare",
                Fanfare,
                "",
                entities,
                OWN,
                Measure::Storm {
                    seconds: changes * 6,
                    rate: 100,
                },
            )],
            comparisons: vec![],
        },
        "herd" => {
            let mut herd = variant(
                "fanfare",
                Fanfare,
                "",
                million / 10,
                "--own-address --sockets 16 --within 1",
                Measure::Subscribing,
            );
            herd.must_lose_nothing = false;
            Scenario {
                name: "herd",
                title: "All entities SUBSCRIBE within a second",
                windows: 1,
                variants: vec![herd],
                comparisons: vec![],
            }
        }
        "shards" => {
            let mut own = variant(
                "own next hops",
                Fanfare,
                "--shards 2",
                entities,
                OWN,
                steady,
            );
            let mut proxy = variant(
                "behind one proxy",
                Fanfare,
                "--shards 2",
                entities,
                "--hops 1 --sockets 1",
                steady,
            );
            (own.cores, proxy.cores) = (Some("0,1"), Some("0,1"));
            Scenario {
                name: "shards",
                title: "Two shards",
                windows: 1,
                variants: vec![own, proxy],
                comparisons: vec![],
            }
        }
        _ => return None,
    })
}

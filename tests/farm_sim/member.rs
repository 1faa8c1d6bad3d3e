//! One member, as its engine hears it.

use std::sync::Arc;

use fanfare::cluster::member::Member;
use fanfare::cluster::message::{Message, Place, UNCONFIRMED};
use fanfare::cluster::{FromCluster, ToCluster};
use fanfare::compositor::{Compositor, CompositorConfig, Lease, Now, Record};
use fanfare::info::{Address, AddressTransport, Entry, Server, Stamp, Status};

const START: Now = Now {
    mono_ms: 5_000,
    unix_ms: 1_795_379_461_000,
};
const HOUR_MS: u64 = 3_600_000;

struct One {
    member: Member,
    now: Now,
}

fn server(id: &str, port: u16) -> Server {
    let address = Address::new(([192, 0, 2, 1], port).into(), AddressTransport::Udp);
    Server::new(id.into(), Status::Up, vec![address])
}

fn stamp(ms: u64, node: &str) -> Stamp {
    Stamp {
        ms,
        counter: 0,
        node: node.into(),
    }
}

/// What `node` said of a server at a time of day, with a lease of an hour.
fn record(id: &str, ms: u64, node: &str) -> Record {
    let stamp = stamp(ms, node);
    let server = Server {
        updated: stamp.clone(),
        ..server(id, 5060)
    };
    Record {
        domain: "*".into(),
        said: Arc::new(Entry {
            server,
            deleted: false,
        }),
        lease: Some(Lease {
            granted: stamp.clone(),
            held: stamp,
            ended: None,
            since: None,
            expires_s: 3_600,
        }),
    }
}

fn removed(id: &str, ms: u64, node: &str) -> Record {
    let mut record = record(id, ms, node);
    Arc::make_mut(&mut record.said).deleted = true;
    record
}

impl One {
    /// A node n1 with what it says of itself told already.
    fn new(config: CompositorConfig) -> One {
        let compositor = Compositor::new(config, [7; 16], START);
        let mut one = One {
            member: Member::among(START, compositor, server("n1", 5060)),
            now: START,
        };
        one.hear(FromCluster::Live(vec!["n1".into(), "n2".into()]));
        one.hear(FromCluster::Synced);
        one.said();
        one
    }

    fn config() -> CompositorConfig {
        CompositorConfig::new("n1".into())
    }

    fn hear(&mut self, told: FromCluster) {
        self.member.hear(self.now, told);
    }

    /// What its engine is told.
    fn said(&mut self) -> Vec<ToCluster> {
        let mut said = Vec::new();
        self.member.say(|message| {
            said.push(message);
            Ok(())
        });
        said
    }

    /// What its engine is told in so many seconds, in which the node looks at itself each second.
    fn said_in(&mut self, seconds: u64) -> Vec<ToCluster> {
        let mut said = Vec::new();
        for _ in 0..seconds {
            self.now.mono_ms += 1_000;
            self.now.unix_ms += 1_000;
            self.member.tick(self.now, || None);
            said.extend(self.said());
        }
        said
    }

    fn status(&self, id: &str) -> Option<Status> {
        let view = self.member.compositor.views().next()?;
        let entry = view.find(id).filter(|entry| !entry.deleted)?;
        Some(entry.server.status.clone())
    }
}

#[test]
fn what_another_knows_better_is_not_forgotten() {
    let mut one = One::new(CompositorConfig {
        forget_after_s: 86_400,
        ..One::config()
    });
    let mut ended = record("p1", START.unix_ms - 3 * HOUR_MS, "n2");
    let lease = ended.lease.as_mut().expect("it has one");
    lease.ended = Some(stamp(START.unix_ms - 2 * HOUR_MS, "n2"));
    let gone = removed("p2", START.unix_ms - HOUR_MS, "n2");
    one.hear(FromCluster::Records(vec![ended, gone]));
    assert_eq!(one.status("p1"), Some(Status::Down));
    let said = one.said();
    let forgets = |message: &ToCluster| matches!(message, ToCluster::Forget(_));
    assert!(!said.iter().any(forgets), "{said:?}");
    // Until it is due to be: then nobody remembers it.
    let said = one.said_in(3_601);
    assert!(said.iter().any(forgets));
}

#[test]
fn what_another_tells_is_confirmed_when_all_of_it_is_known_here_and_only_then() {
    let from = ([127, 0, 0, 1], 7946).into();
    let confirmed = |one: &mut One, number: u32, records: &[&Record]| -> bool {
        let records = records.iter().map(|record| (*record).clone()).collect();
        one.hear(FromCluster::Told {
            from,
            number,
            records,
        });
        one.said().iter().any(|message| {
            matches!(message, ToCluster::Answer { to, message: Message::Told { number: told } }
                if (*to, *told) == (from, number))
        })
    };
    // The node itself is one of them.
    let mut one = One::new(CompositorConfig {
        max_servers: 3,
        ..One::config()
    });
    let at = START.unix_ms;
    let [a, b, c] = ["a", "b", "c"].map(|id| record(id, at, "n2"));
    assert!(confirmed(&mut one, 1, &[&a]));
    assert!(confirmed(&mut one, 2, &[&a]), "the first may get lost");
    assert!(!confirmed(&mut one, UNCONFIRMED, &[&a]));
    let elsewhere = Record {
        domain: "example.org".into(),
        ..b.clone()
    };
    assert!(!confirmed(&mut one, 3, &[&elsewhere]), "it is not served");
    let early = record("b", at + 10_500, "n2");
    assert!(!confirmed(&mut one, 4, &[&early]), "it is not shown yet");
    one.said_in(1);
    assert!(confirmed(&mut one, 5, &[&early]));
    assert!(confirmed(&mut one, 6, &[&b]), "it is older");
    assert!(!confirmed(&mut one, 7, &[&c]), "there is no room");
    assert!(!confirmed(&mut one, 8, &[&a, &c]), "not all of it");
    assert_eq!(one.status("c"), None);
    let newer = record("a", at + 1, "n2");
    assert!(confirmed(&mut one, 9, &[&newer]));
}

#[test]
fn what_a_full_table_refused_is_asked_for_once_there_is_room() {
    let ask = |one: &mut One, seconds: u64| -> Vec<Place> {
        let said = one.said_in(seconds).into_iter();
        let asked = said.filter_map(|message| match message {
            ToCluster::Ask { place, .. } => Some(place),
            _ => None,
        });
        asked.collect()
    };
    // The node itself is one of them.
    let mut one = One::new(CompositorConfig {
        max_servers: 3,
        ..One::config()
    });
    let at = START.unix_ms;
    let records = ["a", "b", "c"].map(|id| record(id, at, "n2"));
    one.hear(FromCluster::Records(records.into()));
    assert_eq!(one.status("c"), None);
    assert_eq!(ask(&mut one, 10), []);
    one.hear(FromCluster::Records(vec![removed("a", at + 1, "n2")]));
    let c: Place = ("*".into(), "c".into());
    // The answer may get lost, but nobody may be there to give one: it is not asked for without end.
    let asked = ask(&mut one, 60);
    assert!(asked.len() > 1 && asked.len() < 10, "{asked:?}");
    assert!(asked.iter().all(|place| *place == c));
    one.hear(FromCluster::Records(vec![record("d", at, "n2")]));
    one.hear(FromCluster::Records(vec![record("c", at, "n2")]));
    one.hear(FromCluster::Records(vec![removed("d", at + 1, "n2")]));
    assert_eq!(ask(&mut one, 1), std::slice::from_ref(&c));
    one.hear(FromCluster::Records(vec![record("c", at, "n2")]));
    assert_eq!(one.status("c"), Some(Status::Up));
    assert_eq!(ask(&mut one, 10), []);
}

#[test]
fn the_younger_of_two_nodes_of_one_name_says_nothing_of_itself_while_the_elder_lives() {
    let tells_itself = |said: &[ToCluster]| {
        said.iter().any(|message| match message {
            ToCluster::Tell(records) => records.iter().any(|record| &**record.id() == "n1"),
            _ => false,
        })
    };
    let elder = |ms: u64| {
        let mut record = record("n1", START.unix_ms + ms, "n1");
        Arc::make_mut(&mut record.said).server.addresses = server("n1", 5070).addresses;
        FromCluster::Records(vec![record])
    };
    let mut one = One::new(One::config());
    one.hear(elder(10));
    assert!(tells_itself(&one.said_in(2)), "it takes that for a mistake");
    one.hear(FromCluster::Twin(true));
    one.hear(elder(5_000));
    assert!(!tells_itself(&one.said_in(10)));
    // It ends, and takes nothing with it that is the other's.
    one.member.drain(one.now);
    one.member.retire(one.now);
    assert!(!tells_itself(&one.said()));
    assert_eq!(one.status("n1"), Some(Status::Up));
    one.hear(FromCluster::Twin(false));
    assert!(tells_itself(&one.said_in(2)), "the other is gone");
}

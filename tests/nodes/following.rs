//! Entities that are subscribed at several nodes: what they see while nodes die, end, come and lie; and what is picked.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use fanfare::info::{Filter, Table};
use fanfare::notifier::names::Target;
use fanfare::subscriber::{Follower, Settings, Subscriber};
use fanfare::subscription::Wish;
use fanfare::wire::Transport;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::farm::{Node, Publisher, Watch};
use crate::process::{Fanfare, PATIENCE};

fn via(nodes: &[&Node]) -> String {
    let via: Vec<String> = nodes.iter().map(|node| node.sip.to_string()).collect();
    via.join(",")
}

fn status<'t>(table: &'t Table, id: &str) -> Option<&'t str> {
    match table.get(id)? {
        fanfare::info::DocumentEntry::Server(server) => Some(server.status.as_str()),
        _ => Some("deleted"),
    }
}

/// Waits until a view is as wanted.
async fn view_where(subscriber: &Subscriber, wanted: impl Fn(&Table) -> bool) {
    let mut changes = subscriber.changes();
    let seen = tokio::time::timeout(PATIENCE, async {
        while let Some(view) = changes.next().await {
            if wanted(&view) {
                return;
            }
        }
        panic!("no more views");
    });
    seen.await.expect("it is seen in time");
}

/// The same, and none on the way may lack anything.
async fn whole_where(subscriber: &Subscriber, wanted: impl Fn(&Table) -> bool) {
    let whole = |view: &Table| {
        assert!(!view.is_stale(), "a gap: {:?}", view.notifier());
        wanted(view)
    };
    view_where(subscriber, whole).await;
}

fn adapt(adapter: &str, via: &str) -> Fanfare {
    let flags = ["adapt", adapter, "--via", via, "--domain", "example.com"];
    let more = ["--service", "proxy", "--listen", "127.0.0.1:0"];
    Fanfare::run(&[flags.as_slice(), &more].concat())
}

/// Calls a redirect server.
struct Caller {
    socket: UdpSocket,
    to: SocketAddr,
    number: u32,
}

impl Caller {
    fn new(to: SocketAddr) -> Caller {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let patience = socket.set_read_timeout(Some(Duration::from_millis(500)));
        patience.expect("not zero");
        Caller {
            socket,
            to,
            number: 0,
        }
    }

    /// Sends INVITEs until one is answered as wanted.
    fn invite_until(&mut self, wanted: &dyn Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < until {
            self.number += 1;
            let (number, local) = (self.number, self.socket.local_addr().expect("it is bound"));
            let request = format!(
                "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKi{number}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag=f\r\nTo: <sip:bob@example.com>\r\n\
                 Call-ID: i{number}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{local}>\r\nContent-Length: 0\r\n\r\n"
            );
            let sent = self.socket.send_to(request.as_bytes(), self.to);
            sent.expect("sent");
            let mut buffer = [0; 4_096];
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            last = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if wanted(&last) {
                return;
            }
        }
        panic!("{last}");
    }
}

/// What a name leads to.
type Places = [(Transport, SocketAddr)];

/// Asks a name server for the servers of the domain, by NAPTR and SRV as RFC 3263 says, over UDP, until they are as wanted.
async fn located_where(server: SocketAddr, wanted: impl Fn(&Places) -> bool) {
    let resolver = fanfare::resolver::open(&[server]).expect("a resolver");
    let target = Target {
        host: "example.com".into(),
        port: None,
        transport: None,
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let found = fanfare::resolver::locate(&resolver, &target).await;
        if wanted(&found.addresses) {
            return;
        }
        assert!(Instant::now() < until, "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn by_udp(at: &str) -> (Transport, SocketAddr) {
    (Transport::Udp, at.parse().expect("an address"))
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

#[test]
fn with_two_notifiers_the_death_of_one_and_the_end_of_the_other_are_no_gap() {
    let mut nodes = Node::farm(4);
    let all = ["n1", "n2", "n3", "n4"];
    nodes[3]
        .watch()
        .view_where(|view| all.iter().all(|id| view.status(id) == Some("up")));
    let mut publisher = Publisher::new();
    publisher.publish(nodes[3].sip, "p1", 1, 600).tag();
    let at: Vec<SocketAddr> = nodes[..2].iter().map(|node| node.sip).collect();
    runtime().block_on(async {
        let subscriber = Subscriber::start("example.com", at);
        view_where(&subscriber, |view| {
            !view.is_stale() && status(view, "p1") == Some("up") && status(view, "n4") == Some("up")
        })
        .await;
        nodes.remove(0).kill();
        whole_where(&subscriber, |view| status(view, "n1") == Some("down")).await;
        // It goes on at the second, and at another; then the second ends.
        let second = nodes.remove(0);
        second.process.signal(Signal::TERM);
        whole_where(&subscriber, |view| status(view, "n2") == Some("deleted")).await;
        assert_eq!(second.process.end().0.code(), Some(0));
        publisher.publish(nodes[0].sip, "p2", 1, 600).tag();
        whole_where(&subscriber, |view| status(view, "p2") == Some("up")).await;
        assert_eq!(status(&subscriber.view(), "p1"), Some("up"));
        assert_eq!(subscriber.pick("turn", None), None, "nobody offers it");
        let picked = subscriber.pick("proxy", Some("alice")).expect("two do");
        subscriber.failed(&picked.id);
        let other = subscriber
            .pick("proxy", Some("alice"))
            .expect("one is left");
        assert_ne!(picked.id, other.id);
        subscriber.succeeded(&picked.id);
        let again = subscriber.pick("proxy", Some("alice"));
        assert_eq!(again, Some(picked));
        subscriber.stop().await;
    });
}

/// Follows until it relies on this notifier alone; whether it was heard by one all the time since it was by the first.
async fn moved_to(follower: &mut Follower, at: SocketAddr) -> bool {
    let mut was_heard = follower.heard().next().is_some();
    while !follower.relied_on().eq([at]) {
        let news = tokio::time::timeout(PATIENCE, follower.next()).await;
        assert!(news.expect("it moves in time").is_some());
        let is_heard = follower.heard().next().is_some();
        if was_heard && !is_heard {
            return false;
        }
        was_heard = is_heard;
    }
    true
}

#[test]
fn entities_of_one_notifier_that_drains_have_another_before_they_are_let_go() {
    let stays = Node::start("n1", &[], &[]);
    let drains = Node::start("n2", &[stays.gossip], &["--drain-time", "12s"]);
    drains.watch().status("n1", "up");
    let (from, to) = (drains.sip, stays.sip);
    let settings = Settings {
        via: vec![from],
        source: None,
        transport: Transport::Udp,
        wish: Wish {
            domain: "example.com".to_owned(),
            filter: None,
            expires_s: 600,
        },
        notifiers: 1,
    };
    runtime().block_on(async {
        let mut entities = JoinSet::new();
        for _ in 0..300 {
            let mut follower = Follower::new(settings.clone());
            entities.spawn(async move {
                moved_to(&mut follower, from).await;
                follower
            });
        }
        let followers = entities.join_all().await;
        drains.process.signal(Signal::TERM);
        let mut entities = JoinSet::new();
        for mut follower in followers {
            entities.spawn(async move { moved_to(&mut follower, to).await });
        }
        let alone = entities.join_all().await.into_iter().filter(|heard| !heard);
        assert_eq!(alone.count(), 0, "entities without a subscription");
    });
}

#[test]
fn who_asks_for_a_service_hears_of_nobody_else_and_hears_who_comes() {
    let nodes = Node::farm(2);
    let at = |id: &str, service: &str| {
        format!(
            "{{\"domain\":\"example.com\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\"services\":[\"{service}\"],\
             \"addresses\":[{{\"ip\":\"192.0.2.2\",\"port\":3478,\"transport\":\"udp\"}}]}}]}}"
        )
    };
    let mut publisher = Publisher::new();
    publisher
        .publish_body(nodes[0].sip, &at("p1", "proxy"))
        .tag();
    publisher
        .publish_body(nodes[0].sip, &at("t1", "turn"))
        .tag();
    let turn = Filter::new(vec!["turn".into()], vec![], vec![], None).expect("a filter");
    runtime().block_on(async {
        let subscriber = Subscriber::with(Settings {
            via: nodes.iter().map(|node| node.sip).collect(),
            source: None,
            transport: Transport::Udp,
            wish: Wish {
                domain: "example.com".to_owned(),
                filter: Some(turn),
                expires_s: 60,
            },
            notifiers: 2,
        });
        let only_turn = |view: &Table| {
            assert_eq!(status(view, "p1"), None, "nobody asked for it");
            assert_eq!(status(view, "p2"), None, "nobody asked for it");
        };
        view_where(&subscriber, |view| {
            only_turn(view);
            status(view, "t1") == Some("up")
        })
        .await;
        let picked = subscriber.pick("turn", None).expect("one offers it");
        assert_eq!(&*picked.id, "t1");
        assert_eq!(subscriber.pick("proxy", None), None);
        publisher
            .publish_body(nodes[1].sip, &at("p2", "proxy"))
            .tag();
        publisher
            .publish_body(nodes[1].sip, &at("t2", "turn"))
            .tag();
        view_where(&subscriber, |view| {
            only_turn(view);
            status(view, "t2") == Some("up")
        })
        .await;
        let picked: BTreeSet<String> = (0..100)
            .filter_map(|_| subscriber.pick("turn", None))
            .map(|server| server.id.to_string())
            .collect();
        assert_eq!(picked, ["t1", "t2"].map(str::to_owned).into());
        subscriber.stop().await;
    });
}

#[test]
fn a_watch_of_several_nodes_shows_one_table_and_outlives_one() {
    let mut nodes = Node::farm(3);
    let via = via(&[&nodes[0], &nodes[1]]);
    let watch = Watch(Fanfare::run(&[
        "watch",
        "--via",
        &via,
        "--domain",
        "example.com",
        "--json",
    ]));
    let all = ["n1", "n2", "n3"];
    watch.view_where(|view| !view.is_stale() && all.iter().all(|id| view.status(id) == Some("up")));
    nodes.remove(0).kill();
    let mut publisher = Publisher::new();
    publisher.publish(nodes[1].sip, "p1", 1, 600).tag();
    watch.view_where(|view| {
        assert!(!view.is_stale());
        view.status("p1") == Some("up") && view.status("n1") == Some("down")
    });
    watch.0.signal(Signal::TERM);
    assert_eq!(watch.0.end().0.code(), Some(0));
}

#[test]
fn picks_keep_to_loads_and_keys_and_say_when_there_is_nothing() {
    let nodes = Node::farm(2);
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 80, 600).tag();
    publisher.publish(nodes[1].sip, "p2", 20, 600).tag();
    let watch = nodes[1].watch();
    watch.view_where(|view| ["p1", "p2"].iter().all(|id| view.status(id) == Some("up")));
    let via = via(&[&nodes[0], &nodes[1]]);
    let pick = |more: &[&str]| {
        let flags = ["pick", "--via", &via, "--domain", "example.com"];
        let mut tool = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = tool.args(flags).args(more).output().expect("it runs");
        let [lines, log] = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8(bytes.clone()).expect("text"));
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        (output.status.code(), lines, log)
    };
    let (code, lines, log) = pick(&["-n", "1000", "--json", "--service", "proxy"]);
    assert_eq!((code, lines.len(), &*log), (Some(0), 1_000, ""));
    let ids: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(ids[0]["address"], "192.0.2.1:5060/udp");
    // 80 and 20 of 100 are free.
    let share = ids.iter().filter(|line| line["id"] == "p2").count();
    assert!((760..=840).contains(&share), "{share} of 1000");
    let (_, first, _) = pick(&["--key", "alice", "--service", "proxy"]);
    let (_, again, _) = pick(&["--key", "alice", "--service", "proxy", "-n", "3"]);
    assert_eq!(again, [&first[..], &first[..], &first[..]].concat());
    // A fetch shows one table, whole.
    let mut once = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    once.args(["watch", "--via", &via, "--domain", "example.com"])
        .args(["--once", "--json"]);
    let output = once.output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(
        (output.status.code(), text.lines().count()),
        (Some(0), 1),
        "{text}"
    );
    let (code, lines, log) = pick(&["--service", "turn"]);
    assert_eq!((code, lines.len()), (Some(3), 0));
    assert_eq!(
        log,
        "fanfare: nothing to pick: no server of example.com offers service turn and is not down\n"
    );
}

#[test]
fn a_notifier_that_lies_is_left_for_another() {
    let nodes = Node::farm(2);
    let watch = nodes[0].watch();
    watch.status("n2", "up");
    let liar = crate::liar::Liar::start();
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    runtime().block_on(async {
        // It knows of nobody else until the liar has named a node.
        let subscriber = Subscriber::with(Settings {
            via: vec![liar.address],
            source: None,
            transport: Transport::Udp,
            wish: Wish {
                domain: "example.com".to_owned(),
                filter: None,
                expires_s: 600,
            },
            notifiers: 1,
        });
        let begun = Instant::now();
        while liar.subscribed() == 0 {
            assert!(begun.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        liar.name(nodes[1].sip);
        let mut changes = subscriber.changes();
        let seen = tokio::time::timeout(PATIENCE, async {
            while let Some(view) = changes.next().await {
                assert_eq!(status(&view, "evil"), None);
                if status(&view, "p1") == Some("up") && !view.is_stale() {
                    return;
                }
            }
        });
        seen.await.expect("it turned to another");
        assert!(liar.lies() >= 3, "{}", liar.lies());
        subscriber.stop().await;
    });
}

#[test]
fn requests_are_redirected_to_servers_that_take_them_until_none_is_left() {
    let nodes = Node::farm(2);
    let mut publisher = Publisher::new();
    let kept = publisher.publish(nodes[0].sip, "p1", 10, 600).tag();
    let via = via(&[&nodes[0], &nodes[1]]);
    let adapter = adapt("redirect", &via);
    let ready = adapter.line();
    let at = ready
        .strip_prefix("fanfare redirect ready udp=")
        .expect("it says where it is");
    let mut caller = Caller::new(at.parse().expect("an address"));
    let mut invite = |wanted: &dyn Fn(&str) -> bool| caller.invite_until(wanted);
    invite(&|answer| {
        answer.starts_with("SIP/2.0 302 ")
            && answer.contains("Contact: <sip:bob@192.0.2.1:5060>;q=1.0\r\n")
    });
    // A second one that is full comes second.
    publisher.publish(nodes[1].sip, "p2", 100, 600).tag();
    invite(&|answer| answer.contains(";q=0.9"));
    let two = publisher.publish(nodes[1].sip, "p2", 100, 600).tag();
    publisher.refresh(nodes[1].sip, &two, 0);
    publisher.refresh(nodes[0].sip, &kept, 0);
    invite(&|answer| answer.starts_with("SIP/2.0 503 ") && answer.contains("Retry-After: "));
    adapter.signal(Signal::TERM);
    assert_eq!(adapter.end().0.code(), Some(0));
}

#[test]
fn a_resolver_finds_the_servers_that_live_and_the_dead_one_is_gone_at_once() {
    let nodes = Node::farm(2);
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 10, 600).tag();
    let body = "{\"domain\":\"example.com\",\"servers\":[{\"id\":\"p2\",\"status\":\"up\",\"services\":[\"proxy\"],\
                \"addresses\":[{\"ip\":\"192.0.2.2\",\"port\":5070,\"transport\":\"udp\"}]}]}";
    let second = publisher.publish_body(nodes[1].sip, body).tag();
    let via = via(&[&nodes[0], &nodes[1]]);
    let adapter = adapt("dns", &via);
    let ready = adapter.line();
    let server: SocketAddr = ready
        .strip_prefix("fanfare dns ready udp=")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|at| at.parse().ok())
        .expect("it says where it is");
    runtime().block_on(async {
        let (one, other) = (by_udp("192.0.2.1:5060"), by_udp("192.0.2.2:5070"));
        let has_both = |found: &Places| found.contains(&one) && found.contains(&other);
        located_where(server, has_both).await;
        // Its lease runs out soon.
        publisher.refresh(nodes[0].sip, &second, 2).tag();
        located_where(server, |found| found == [one]).await;
    });
    adapter.signal(Signal::TERM);
    assert_eq!(adapter.end().0.code(), Some(0));
}

#[test]
fn a_node_adapts_by_itself_as_its_file_says() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let adapters = "[[adapter]]\nkind = \"redirect\"\ndomain = \"example.com\"\nservice = \"proxy\"\nlisten = \"127.0.0.1:0\"\n\
                    [[adapter]]\nkind = \"dns\"\ndomain = \"example.com\"\nlisten = \"127.0.0.1:0\"\nttl = \"2s\"\n\
                    [[adapter]]\nkind = \"dispatcher\"\ndomain = \"example.com\"\nrpc = \"http://127.0.0.1:9/RPC\"\nset = 3\n";
    std::fs::write(file.path(), adapters).expect("written");
    let path = file.path().to_str().expect("text");
    let node = Node::start("n1", &[], &["--config", path]);
    let at = |adapter: &str| {
        let start = format!("fanfare {adapter} ready udp=");
        let lines = &node.before_ready;
        let place = lines.iter().find_map(|line| line.strip_prefix(&start));
        let place = place.and_then(|rest| rest.split(' ').next());
        place
            .and_then(|at| at.parse().ok())
            .expect("it says where it is")
    };
    Publisher::new().publish(node.sip, "p1", 10, 600).tag();
    Caller::new(at("redirect"))
        .invite_until(&|answer| answer.contains("Contact: <sip:bob@192.0.2.1:5060>;q=1.0\r\n"));
    let p1 = by_udp("192.0.2.1:5060");
    runtime().block_on(located_where(at("dns"), |found| found.contains(&p1)));
    // Nothing listens there, and the node goes on.
    node.await_log("trying until it works");
    // What another has cannot be had.
    let taken = at("redirect");
    let adapters = format!(
        "[[adapter]]\nkind = \"redirect\"\ndomain = \"example.com\"\nlisten = \"{taken}\"\n"
    );
    std::fs::write(file.path(), adapters).expect("written");
    let other = Fanfare::run(&["serve", "--listen", "127.0.0.1:0", "--config", path]);
    let (status, log) = other.end();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(
        log.contains(&format!("fanfare: adapter: --listen {taken}: ")),
        "{log}"
    );
    // They find another node by themselves, and leave nothing there when theirs ends.
    let other = Node::start("n2", &[node.gossip], &[]);
    let subscribed = |count: u64| {
        let until = Instant::now() + PATIENCE;
        while other.counter("live") != count {
            assert!(Instant::now() < until, "{}", other.process.log());
        }
    };
    subscribed(3);
    node.process.signal(Signal::TERM);
    let (status, log) = node.process.end();
    assert_eq!(status.code(), Some(0), "{log}");
    subscribed(0);
}

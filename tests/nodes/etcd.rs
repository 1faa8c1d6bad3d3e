//! Nodes that find each other by a real etcd: what one learns all know; and what becomes of it when etcd goes away, comes
//! back, or has forgotten what there was in between.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanfare::cluster::SYNC_WITHIN;
use rustix::process::Signal;
use serde_json::json;

use crate::farm::{Node, Publisher, View};
use crate::hostile::shows_for_long;
use crate::process::PATIENCE;
use crate::store::{Bridge, Certificates, Etcd, call, free_address};

fn is(view: &View, id: &str, status: &str) -> bool {
    view.status(id) == Some(status)
}

#[test]
fn what_one_node_learns_all_know_and_a_dead_node_is_down() {
    let etcd = Etcd::start();
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| etcd.node(name, &[])).into();
    crate::publish_everywhere(&nodes);
    let watch = nodes[1].watch();
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "long", 1, 600).tag();
    publisher.publish(nodes[0].sip, "brief", 1, 5).tag();
    nodes.remove(0).kill();
    watch.view_where(|view| {
        is(view, "n1", "down") && is(view, "brief", "down") && is(view, "long", "up")
    });
    // One that ends in order is gone at once.
    let last = nodes.remove(1);
    last.process.signal(Signal::TERM);
    watch.status("n3", "deleted");
    assert_eq!(last.process.end().0.code(), Some(0));
    // One that comes later learns all of it.
    let late = etcd.node("n4", &[]);
    late.watch().view_where(|view| {
        !view.is_stale()
            && is(view, "brief", "down")
            && is(view, "long", "up")
            && is(view, "n2", "up")
    });
}

#[test]
fn while_etcd_is_away_nobody_goes_down_and_what_was_refreshed_lives_on() {
    let mut etcd = Etcd::start();
    let nodes = ["n1", "n2"].map(|name| etcd.node(name, &[]));
    let watches: Vec<_> = nodes.iter().map(Node::watch).collect();
    let mut publisher = Publisher::new();
    let kept = publisher.publish(nodes[0].sip, "kept", 1, 8).tag();
    publisher.publish(nodes[0].sip, "quiet", 1, 6).tag();
    for watch in &watches {
        watch.view_where(|view| {
            ["kept", "quiet", "n1", "n2"]
                .iter()
                .all(|id| is(view, id, "up"))
        });
    }
    assert_eq!(nodes[0].counter("cluster_store_losses"), 0);
    etcd.kill();
    for watch in &watches {
        watch.view_where(View::is_stale);
    }
    for node in &nodes {
        assert_eq!(node.counter("cluster_store_losses"), 1);
    }
    // A lease that is known goes on; what would be lost is refused.
    let changed = publisher.modify(nodes[0].sip, &kept, ("kept", 2));
    assert_eq!(changed.status, 503, "{}", changed.text);
    assert!(changed.text.contains("Retry-After: "), "{}", changed.text);
    let newer = publisher.refresh(nodes[0].sip, &kept, 600).tag();
    let refused = publisher.publish(nodes[0].sip, "new", 1, 600);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("Retry-After: "), "{}", refused.text);
    assert_eq!(publisher.refresh(nodes[0].sip, &newer, 0).status, 503);
    // Longer than the leases of `quiet` and of `kept` before it was refreshed.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(100));
    }
    let frozen = nodes[1].watch().view_where(|_| true);
    assert!(is(&frozen, "quiet", "up") && is(&frozen, "kept", "up") && frozen.is_stale());
    etcd.restart();
    for watch in &watches {
        // The quiet one's publisher has died; the other's lease was told after all.
        let view = watch.view_where(|view| !view.is_stale() && is(view, "quiet", "down"));
        assert!(is(&view, "n1", "up") && is(&view, "n2", "up"));
        assert_eq!((view.load("kept"), view.status("new")), (Some(1), None));
    }
    assert_eq!(publisher.refresh(nodes[1].sip, &newer, 600).status, 200);
    publisher.publish(nodes[1].sip, "new", 1, 600).tag();
    for watch in &watches {
        watch.status("new", "up");
    }
    nodes[0].await_log("etcd is away");
    nodes[0].await_log("etcd is back");
}

#[test]
fn a_node_that_finds_no_etcd_is_stale_until_it_comes() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let node = etcd.node("n1", &[]);
    let watch = node.watch();
    assert!(watch.view_where(|_| true).is_stale());
    let mut publisher = Publisher::new();
    let refused = publisher.publish(node.sip, "p1", 1, 600);
    assert_eq!(refused.status, 503, "{}", refused.text);
    // Longer than a node looks for others by gossip.
    let until = Instant::now() + SYNC_WITHIN + Duration::from_secs(1);
    while Instant::now() < until {
        assert!(node.watch().view_where(|_| true).is_stale());
    }
    assert_eq!(node.counter("cluster_store_losses"), 1);
    etcd.restart();
    watch.view_where(|view| !view.is_stale() && is(view, "n1", "up"));
    publisher.publish(node.sip, "p1", 1, 600).tag();
    watch.status("p1", "up");
}

#[test]
fn a_node_that_was_cut_off_catches_up_even_with_what_etcd_has_forgotten() {
    let etcd = Etcd::start();
    let bridge = Bridge::to(etcd.address);
    let far = Node::start(
        "n1",
        &[],
        &["--etcd", &format!("http://{}", bridge.address)],
    );
    let near = etcd.node("n2", &[]);
    let (far_watch, near_watch) = (far.watch(), near.watch());
    let mut publisher = Publisher::new();
    let early = publisher.publish(far.sip, "early", 1, 600).tag();
    far_watch.view_where(|view| is(view, "early", "up") && is(view, "n2", "up"));
    near_watch.view_where(|view| is(view, "early", "up") && is(view, "n1", "up"));
    for compacts in [false, true] {
        bridge.cut();
        far_watch.view_where(View::is_stale);
        near_watch.status("n1", "down");
        assert_eq!(
            publisher.refresh(near.sip, &early, 0).status,
            [412, 200][usize::from(!compacts)]
        );
        let id = format!("late{compacts}");
        publisher.publish(near.sip, &id, 1, 600).tag();
        if compacts {
            let now = etcd.call("kv/range", &json!({ "key": "YQ==" }));
            let revision = &now["header"]["revision"];
            etcd.call(
                "kv/compaction",
                &json!({ "revision": revision, "physical": true }),
            );
        }
        bridge.mend();
        far_watch.view_where(|view| {
            !view.is_stale() && is(view, &id, "up") && view.status("early") == Some("deleted")
        });
        near_watch.status("n1", "up");
    }
}

#[test]
fn values_that_are_no_records_other_clusters_and_twins_do_no_harm() {
    let etcd = Etcd::start();
    let bytes = |text: &str| STANDARD.encode(text);
    for (id, value) in [("p1", "no record"), ("p2", "1 said\n{}"), ("p3", "")] {
        let key = bytes(&format!("/fanfare/fanfare/servers/*/{id}"));
        etcd.call("kv/put", &json!({ "key": key, "value": bytes(value) }));
    }
    let node = etcd.node("n1", &[]);
    let stranger = etcd.node("n2", &["--cluster-id", "other"]);
    let watch = node.watch();
    let mut publisher = Publisher::new();
    // What cannot be read is written over.
    publisher.publish(node.sip, "p1", 1, 600).tag();
    publisher.publish(stranger.sip, "p4", 1, 600).tag();
    let view = watch.view_where(|view| is(view, "p1", "up") && is(view, "n1", "up"));
    for id in ["p2", "p3", "p4", "n2"] {
        assert_eq!(view.status(id), None, "{id}");
    }
    // Nobody of its own is there, and others are: that may be a mistake.
    stranger.await_log("there are keys of another");
    stranger.await_count("cluster_wrong_id");
    assert_eq!(node.counter("cluster_wrong_id"), 0);
    node.await_log("value in etcd refused");
    node.await_count("cluster_malformed");
    let twin = etcd.node("n1", &[]);
    twin.await_log("another node of this name");
    twin.await_count("cluster_name_conflicts");
    let other = etcd.node("n3", &[]);
    shows_for_long(&other, "n1", &node);
}

#[test]
fn what_ended_hours_ago_stays_in_the_store_for_as_long_as_it_is_remembered() {
    let etcd = Etcd::start();
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = unix.expect("it is later than that").as_millis() as u64;
    let stamp = |minutes_ago: u64| format!("{}.0.n9", now_ms - minutes_ago * 60_000);
    let (ended, deleted) = (stamp(120), stamp(90));
    let began = stamp(121);
    let stored = [
        ("p1", format!("said {began} {began} {began} 60 {ended} -")),
        ("p2", format!("deleted {deleted}")),
    ];
    let key = |id: &str| STANDARD.encode(format!("/fanfare/fanfare/servers/*/{id}"));
    for (id, stamps) in &stored {
        let body = json!({ "domain": "*", "servers": [{ "id": id, "status": "up",
            "addresses": [{ "ip": "192.0.2.1", "port": 5060, "transport": "udp" }] }] });
        let value = STANDARD.encode(format!("1 {stamps}\n{body}"));
        etcd.call("kv/put", &json!({ "key": key(id), "value": value }));
    }
    let node = etcd.node("n1", &["--forget-after", "24h"]);
    let watch = node.watch();
    watch.view_where(|view| is(view, "p1", "down") && is(view, "n1", "up"));
    // What the node does with what it read is done before it answers this.
    let mut publisher = Publisher::new();
    let tag = publisher.publish(node.sip, "p3", 1, 600).tag();
    publisher.refresh(node.sip, &tag, 600).tag();
    for (id, _) in &stored {
        let there = etcd.call("kv/range", &json!({ "key": key(id) }));
        assert_eq!(there["count"], "1", "{id} is gone: {there}");
    }
}

#[test]
fn a_user_and_a_password_are_given_to_an_etcd_that_asks_for_them() {
    let etcd = Etcd::start();
    etcd.call("auth/role/add", &json!({ "name": "root" }));
    etcd.call(
        "auth/user/add",
        &json!({ "name": "root", "password": "correct horse" }),
    );
    etcd.call(
        "auth/user/grant",
        &json!({ "user": "root", "role": "root" }),
    );
    etcd.call("auth/enable", &json!({}));
    let directory = tempfile::tempdir().expect("a directory");
    let config = |name: &str, password: &str| {
        let path = directory.path().join(name);
        let text = format!("etcd-user = \"root\"\netcd-password = \"{password}\"\n");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (good, bad) = (
        config("good", "correct horse"),
        config("bad", "battery staple"),
    );
    // Who authenticates may find nobody at the first endpoint.
    let gone = format!("http://{},{}", free_address(), etcd.url());
    let nodes = ["n1", "n2"].map(|name| {
        let flags = ["--etcd", &gone, "--config", &good];
        Node::start(name, &[], &flags)
    });
    let outside = etcd.node("n3", &["--config", &bad]);
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    nodes[1].watch().status("p1", "up");
    assert_eq!(publisher.publish(outside.sip, "p2", 1, 600).status, 503);
    outside.await_log("etcd is away");
}

#[test]
fn etcd_is_spoken_to_by_tls_with_a_certificate_of_this_nodes() {
    let etcd = Etcd::start_with(Some(Certificates::new()), &[]);
    let (address, certificates) = etcd.tls.as_ref().expect("it was asked for");
    let url = format!("https://{address}");
    let config = |name: &str, text: String| {
        std::fs::write(certificates.path(name), text).expect("written");
        certificates.path(name)
    };
    let ca = format!("etcd-ca = \"{}\"\n", certificates.path("ca.pem"));
    let identity = format!("etcd-cert = \"{}\"\n", certificates.path("identity.pem"));
    let good = config("good.toml", ca.clone() + &identity);
    // Without a certificate of its own etcd does not take it; without the authority it does not take etcd.
    let (unknown, mistrusting) = (
        config("unknown.toml", ca),
        config("mistrusting.toml", identity),
    );
    let start =
        |name: &str, config: &str| Node::start(name, &[], &["--etcd", &url, "--config", config]);
    let nodes = [start("n1", &good), start("n2", &good)];
    let outside = [start("n3", &unknown), start("n4", &mistrusting)];
    let mut publisher = Publisher::new();
    publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    nodes[1].watch().status("p1", "up");
    for node in &outside {
        assert_eq!(publisher.publish(node.sip, "p2", 1, 600).status, 503);
        node.await_log("etcd is away");
    }
}

#[test]
fn another_endpoint_is_asked_where_one_is_gone() {
    let etcd = Etcd::start();
    let bridge = Bridge::to(etcd.address);
    let both = format!("http://{},{}", bridge.address, etcd.url());
    let node = Node::start("n1", &[], &["--etcd", &both]);
    let other = etcd.node("n2", &[]);
    let watch = node.watch();
    watch.view_where(|view| is(view, "n2", "up") && !view.is_stale());
    let mut publisher = Publisher::new();
    let early = publisher.publish(node.sip, "early", 1, 600).tag();
    bridge.cut();
    // Its watch stood at the endpoint that is gone.
    publisher.publish(other.sip, "late", 1, 600).tag();
    watch.view_where(|view| is(view, "late", "up") && !view.is_stale());
    let other_watch = other.watch();
    let view = other_watch.view_where(|view| is(view, "early", "up"));
    assert!(is(&view, "n1", "up"));
    assert_eq!(publisher.refresh(node.sip, &early, 600).status, 200);
    // One that starts now has never heard of the first.
    let started = Node::start("n3", &[], &["--etcd", &both]);
    started
        .watch()
        .view_where(|view| is(view, "late", "up") && !view.is_stale());
}

#[test]
fn of_three_members_one_may_be_lost_and_not_two() {
    let mut members = Etcd::start_three();
    let url = |order: [usize; 3]| order.map(|at| members[at].url()).join(",");
    let urls = [url([0, 1, 2]), url([1, 2, 0])];
    let start = |name: &str, urls: &str| Node::start(name, &[], &["--etcd", urls]);
    let nodes = [start("n1", &urls[0]), start("n2", &urls[1])];
    let watches = nodes.each_ref().map(Node::watch);
    let mut publisher = Publisher::new();
    let kept = publisher.publish(nodes[0].sip, "p1", 1, 600).tag();
    for watch in &watches {
        watch.view_where(|view| ["p1", "n1", "n2"].iter().all(|id| is(view, id, "up")));
    }
    // The first node's member; it may be the one that leads.
    members[0].kill();
    // An election takes a second or two, in which a PUBLISH may be refused.
    let until = Instant::now() + PATIENCE;
    while publisher.publish(nodes[0].sip, "p2", 1, 600).status != 200 {
        assert!(Instant::now() < until);
    }
    for watch in &watches {
        watch.view_where(|view| is(view, "p2", "up") && is(view, "n1", "up") && !view.is_stale());
    }
    members[1].kill();
    for watch in &watches {
        watch.view_where(View::is_stale);
    }
    assert_eq!(publisher.publish(nodes[1].sip, "p3", 1, 600).status, 503);
    let newer = publisher.refresh(nodes[1].sip, &kept, 600).tag();
    members[1].restart();
    for watch in &watches {
        let view = watch.view_where(|view| !view.is_stale() && is(view, "n1", "up"));
        assert!(is(&view, "p1", "up") && is(&view, "p2", "up"));
        assert_eq!(view.status("p3"), None);
    }
    assert_eq!(publisher.refresh(nodes[0].sip, &newer, 600).status, 200);
}

#[test]
fn a_watch_that_falls_silent_is_begun_anew() {
    let etcd = Etcd::start();
    let bridge = Bridge::to(etcd.address);
    let url = format!("http://{}", bridge.address);
    let node = Node::start("n1", &[], &["--etcd", &url]);
    let other = etcd.node("n2", &[]);
    let watch = node.watch();
    watch.view_where(|view| is(view, "n2", "up") && !view.is_stale());
    bridge.mute_watches();
    let mut publisher = Publisher::new();
    publisher.publish(other.sip, "p1", 1, 600).tag();
    // What is written goes its way, and what the watch does not show of it tells.
    publisher.publish(node.sip, "p2", 1, 600).tag();
    other.watch().status("p2", "up");
    node.await_log("does not show what this node wrote");
    bridge.unmute();
    watch.view_where(|view| is(view, "p1", "up") && is(view, "p2", "up"));
}

#[test]
fn a_store_that_is_full_takes_nothing_new_and_loses_nothing() {
    let etcd = Etcd::start_with(None, &["--quota-backend-bytes", "4194304"]);
    let node = etcd.node("n1", &[]);
    let watch = node.watch();
    let mut publisher = Publisher::new();
    let kept = publisher.publish(node.sip, "kept", 1, 600).tag();
    watch.status("kept", "up");
    let filler = STANDARD.encode(vec![b'x'; 1 << 20]);
    let fill = |number: u32| {
        let key = STANDARD.encode(format!("/filler/{number}"));
        call(
            etcd.address,
            "kv/put",
            &json!({ "key": key, "value": filler }),
        )
        .is_some()
    };
    assert!((0..100).any(|number| !fill(number)), "it is never full");
    let refused = publisher.publish(node.sip, "new", 1, 600);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("Retry-After: "), "{}", refused.text);
    let newer = publisher.refresh(node.sip, &kept, 900).tag();
    // The refresh is to be written, and is refused for so long that the store is away.
    let view = watch.view_where(View::is_stale);
    assert!(is(&view, "kept", "up") && view.status("new").is_none());
    // It is not taken for back as long as nobody has made room.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(!node.process.log().contains("etcd is back"));
        thread::sleep(Duration::from_millis(50));
    }
    // Who runs it makes room.
    etcd.call(
        "kv/deleterange",
        &json!({ "key": STANDARD.encode("/filler/"), "range_end": STANDARD.encode("/filler0") }),
    );
    let now = etcd.call("kv/range", &json!({ "key": "YQ==" }));
    etcd.call(
        "kv/compaction",
        &json!({ "revision": now["header"]["revision"], "physical": true }),
    );
    etcd.call("maintenance/defragment", &json!({}));
    let raised = etcd.call("maintenance/alarm", &json!({ "action": "GET" }));
    let member = &raised["alarms"][0]["memberID"];
    etcd.call(
        "maintenance/alarm",
        &json!({ "action": "DEACTIVATE", "alarm": "NOSPACE", "memberID": member }),
    );
    let until = Instant::now() + 2 * PATIENCE;
    while publisher.publish(node.sip, "new", 1, 600).status != 200 {
        assert!(Instant::now() < until, "{}", node.process.log());
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(publisher.refresh(node.sip, &newer, 600).status, 200);
    let late = etcd.node("n2", &[]);
    late.watch()
        .view_where(|view| is(view, "kept", "up") && is(view, "new", "up"));
}

#[test]
fn what_a_store_put_back_to_an_older_state_has_forgotten_it_is_told_again() {
    let mut etcd = Etcd::start();
    let node = etcd.node("n1", &[]);
    let watch = node.watch();
    let mut publisher = Publisher::new();
    publisher.publish(node.sip, "early", 1, 600).tag();
    watch.status("early", "up");
    etcd.kill();
    let backup = etcd.back_up();
    etcd.restart();
    watch.view_where(|view| !view.is_stale());
    let late = publisher.publish(node.sip, "late", 1, 600).tag();
    watch.status("late", "up");
    etcd.kill();
    watch.view_where(View::is_stale);
    etcd.restart_with(backup);
    watch.view_where(|view| !view.is_stale() && is(view, "late", "up"));
    let other = etcd.node("n2", &[]);
    other
        .watch()
        .view_where(|view| is(view, "early", "up") && is(view, "late", "up"));
    assert_eq!(publisher.refresh(other.sip, &late, 600).status, 200);
}

//! Four nodes, each a host of its own (network namespaces on one switch), that fall into two halves and come together.

use std::collections::BTreeMap;
use std::process::Command;

use rustix::process::Signal;

use crate::farm::{View, Watch};
use crate::process::Fanfare;

/// Hosts on a switch that can be parted. Needs the right to make network namespaces.
struct Net {
    name: String,
    hosts: usize,
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

impl Net {
    fn new(hosts: usize) -> Net {
        let net = Net {
            name: format!("fanfare{}", std::process::id()),
            hosts,
        };
        let switch = net.switch();
        ip(&format!("netns add {switch}"));
        for half in ["left", "right"] {
            ip(&format!("-n {switch} link add {half} type bridge"));
            ip(&format!("-n {switch} link set {half} up"));
        }
        for number in 1..=hosts {
            let host = net.host(number);
            ip(&format!("netns add {host}"));
            ip(&format!(
                "-n {switch} link add port{number} type veth peer name eth0 netns {host}"
            ));
            ip(&format!("-n {switch} link set port{number} master left up"));
            ip(&format!("-n {host} addr add 10.77.0.{number}/24 dev eth0"));
            ip(&format!("-n {host} link set eth0 up"));
            ip(&format!("-n {host} link set lo up"));
        }
        net
    }

    fn switch(&self) -> String {
        format!("{}-0", self.name)
    }

    fn host(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Puts these hosts into one half.
    fn put(&self, hosts: &[usize], half: &str) {
        for number in hosts {
            let switch = self.switch();
            ip(&format!("-n {switch} link set port{number} master {half}"));
        }
    }

    /// `fanfare` on a host.
    fn run(&self, host: usize, arguments: &str) -> Fanfare {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.host(host)])
            .arg(env!("CARGO_BIN_EXE_fanfare"));
        Fanfare::run_by(command, &arguments.split(' ').collect::<Vec<_>>())
    }

    fn node(&self, host: usize) -> Fanfare {
        let network = "10.77.0.0/24";
        let node = self.run(
            host,
            &format!(
                "serve --node n{host} --shards 1 --listen 10.77.0.{host}:5060 --gossip 10.77.0.{host}:7946 \
                 --join 10.77.0.1:7946,10.77.0.2:7946 --gossip-allow {network} --allow-publish {network} \
                 --allow-subscribe {network}"
            ),
        );
        node.line_where(|line| line.starts_with("fanfare ready"));
        node
    }

    fn watch(&self, host: usize) -> Watch {
        let via = format!("watch --via 10.77.0.{host} --domain example.com --json");
        Watch(self.run(host, &via))
    }

    /// A server that publishes to the node of its host until it is stopped.
    fn publish(&self, host: usize, id: &str) -> Fanfare {
        let flags = format!(
            "publish --to 10.77.0.{host} --domain example.com --id {id} --address 10.77.0.{host}:5070/udp --load 5 --expires 4"
        );
        self.run(host, &flags)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for number in 0..=self.hosts {
            let name = format!("{}-{number}", self.name);
            // What was never made need not be deleted.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn all(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected
        .iter()
        .map(|(id, status)| ((*id).to_owned(), (*status).to_owned()))
        .collect()
}

#[test]
fn two_halves_serve_what_they_know_and_are_one_again_with_all_that_lives() {
    let net = Net::new(4);
    let _nodes: Vec<Fanfare> = (1..=4).map(|host| net.node(host)).collect();
    let watches: Vec<Watch> = (1..=4).map(|host| net.watch(host)).collect();
    let left = net.publish(1, "left");
    let _right = net.publish(3, "right");
    let together = [
        ("left", "up"),
        ("n1", "up"),
        ("n2", "up"),
        ("n3", "up"),
        ("n4", "up"),
        ("right", "up"),
    ];
    for watch in &watches {
        watch.view_where(|view| view.statuses() == all(&together));
    }
    net.put(&[3, 4], "right");
    // Who is on the other side is down for each half, and its servers are once their leases have run out.
    let sees = |view: &View, others: [&str; 3], own: &str| {
        let down = others.iter().all(|id| view.status(id) == Some("down"));
        down && view.status(own) == Some("up")
    };
    for watch in &watches[..2] {
        watch.view_where(|view| sees(view, ["n3", "n4", "right"], "left"));
    }
    for watch in &watches[2..] {
        watch.view_where(|view| sees(view, ["n1", "n2", "left"], "right"));
    }
    // Both halves go on living: one server comes on each side, one leaves.
    let _new_left = net.publish(2, "newleft");
    let _new_right = net.publish(4, "newright");
    for watch in &watches[..2] {
        watch.status("newleft", "up");
    }
    left.signal(Signal::TERM);
    left.end();
    for watch in &watches[..2] {
        watch.status("left", "deleted");
    }
    for watch in &watches[2..] {
        watch.status("newright", "up");
    }
    net.put(&[3, 4], "left");
    let together = [
        ("n1", "up"),
        ("n2", "up"),
        ("n3", "up"),
        ("n4", "up"),
        ("newleft", "up"),
        ("newright", "up"),
        ("right", "up"),
    ];
    for watch in &watches {
        watch.view_where(|view| view.statuses() == all(&together));
    }
}

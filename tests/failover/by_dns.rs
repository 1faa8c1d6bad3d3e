//! SIP software that finds its servers by DNS: a proxy that asks a resolver for the domain, as any does, and the adapter that
//! answers it. In a network of its own, for a resolver asks at port 53.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::balancer::Balancer;
use crate::calls::{Call, calls, lost, taken_at};
use crate::farm::Node;
use crate::servers::{SHORT, Server, now};
use crate::sipp::Sipp;
use crate::{adapt, await_calls, callers, taken_by, three};

/// Set where a test runs in a network of its own.
const APART: &str = "FANFARE_APART";
/// The adapter's, by default.
const TTL: Duration = Duration::from_secs(1);
/// What else the machine does.
const SLACK: Duration = Duration::from_secs(1);

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Runs this test once more where nobody else is, with a name server of its own; whether that is so already. Needs the
/// right to make namespaces.
fn is_apart(test: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "nameserver 127.0.0.1\n").expect("it is written");
        let path = file.path().to_str().expect("a path in UTF-8");
        run("ip", &["link", "set", "lo", "up"]);
        // The mount stays when the name is gone.
        run("mount", &["--bind", path, "/etc/resolv.conf"]);
        return true;
    }
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(own);
    command
        .args(["--exact", test, "--nocapture"])
        .env(APART, "1");
    let output = command.output().expect("unshare is there");
    let [out, error] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{out}\n{error}");
    print!("{out}");
    false
}

/// Calls of which one server is killed after some; when that was, and how they ended.
fn killed_amid(
    servers: &mut Vec<Server>,
    callers: Sipp,
    known: impl FnOnce(),
) -> (Duration, Duration, Vec<Call>) {
    await_calls(&callers, 100);
    let killed = servers.remove(0).kill();
    known();
    let known = now();
    (killed, known, calls(&callers.messages_at_the_end()))
}

#[test]
fn a_proxy_that_resolves_the_domain_leaves_a_dead_server_within_the_time_to_live() {
    if !is_apart(
        "by_dns::a_proxy_that_resolves_the_domain_leaves_a_dead_server_within_the_time_to_live",
    ) {
        return;
    }
    let node = Node::start("n1", &[], &[]);
    let (mut servers, watch) = three(&node);
    servers[0].publish_for(SHORT, node.sip);
    let adapter = adapt("dns", &node, &["--listen", "127.0.0.1:53"]);
    adapter.line_where(|line| line.starts_with("fanfare dns ready"));
    let proxy = Balancer::start_by_dns();
    let at: Vec<SocketAddr> = servers.iter().map(|server| server.at).collect();
    // Its lease runs out.
    let follows = callers("call", proxy.sip, 400);
    let (killed, known, calls) =
        killed_amid(&mut servers, follows, || drop(watch.status("p1", "down")));
    let all = calls.len();
    let taken: Vec<usize> = at.iter().map(|at| taken_at(&calls, *at)).collect();
    // Kamailio gives all calls to the server of the greatest weight.
    assert!(taken[0] > 0 && taken[1] > 0, "{taken:?}");
    let gone = lost(&calls);
    let late = |call: &&&Call| call.begun + SLACK < killed || call.begun > known + TTL + SLACK;
    assert_eq!(
        gone.iter().find(late),
        None,
        "killed at {killed:?}, known at {known:?}"
    );
    assert!(!gone.is_empty());
    // The next is said to be up for minutes, as it would be by records that nobody changes.
    let follows = callers("call", proxy.sip, 400);
    let (_, _, stays) = killed_amid(&mut servers, follows, || ());
    let missed = lost(&stays);
    let last = stays.iter().map(|call| call.begun).max().expect("calls");
    assert!(
        missed.iter().any(|call| call.begun + SLACK > last),
        "static records forget nobody: {:?}",
        taken_by(&stays, &servers)
    );
    println!(
        "{} of {all} calls lost; by records that stay {} of {}",
        gone.len(),
        missed.len(),
        stays.len()
    );
}

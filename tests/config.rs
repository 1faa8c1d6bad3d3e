//! Configurations, good and bad: what a bad one says, and how flags, file and defaults come together.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output};

use clap::Parser;
use fanfare::config::{Arguments, Caution, Config};
use fanfare::wire::Transport;

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    serve: Arguments,
}

fn config(flags: &[&str]) -> Config {
    let flags = Flags::parse_from([&["fanfare"], flags].concat());
    Config::new(&flags.serve).expect("a good configuration")
}

fn file(directory: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("fanfare.toml");
    fs::write(&path, text).expect("written");
    path
}

fn serve(flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command
        .arg("serve")
        .args(flags)
        .output()
        .expect("the binary runs")
}

/// Exit status 2, one line on standard error, nothing on standard output.
fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
    let line = stderr.trim_end();
    line.strip_prefix("fanfare: ")
        .expect("it says who speaks")
        .to_owned()
}

#[test]
fn a_bad_file_is_refused_in_one_line_that_says_what_and_where() {
    let directory = tempfile::tempdir().unwrap();
    for (text, expected) in [
        (
            "shards = 0\n",
            ":1: shards = 0: not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            "\n\nshards = 65",
            ":3: shards = 65: not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            "shards = \"4\"",
            ":1: shards = \"4\": not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            "shards = [1]",
            ":1: shards = (an array): not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            "rcvbuf = 1.5",
            ":1: rcvbuf = (a float): not allowed; allowed: a whole number from 4096 to 1073741824",
        ),
        (
            "shard = 4",
            ":1: unknown key shard; the keys are those of `fanfare serve --help`",
        ),
        (
            "[tcp]\nidle = 1",
            ":2: tcp-idle = 1: not allowed; allowed: a time such as 100ms, 2s, 5m or plain seconds, from 32s to 86400s",
        ),
        (
            "[tcp]\nidel = 1",
            ":2: unknown key tcp-idel; the keys are those of `fanfare serve --help`",
        ),
        (
            "join = [\"node1.example.com\"]",
            ":1: join = \"node1.example.com\": not allowed; allowed: at most 64 hosts or addresses with port, as node1.example.com:7946",
        ),
        (
            "join = [\"node1.example.com:7946\"]",
            ":1: join = \"node1.example.com:7946\": means nothing without gossip",
        ),
        (
            "gossip = \"0.0.0.0:7946\"",
            ":1: gossip = \"0.0.0.0:7946\": not allowed; allowed: an address that other nodes reach, with port, as 192.0.2.1:7946",
        ),
        (
            "etcd = [\"10.0.0.1:2379\"]",
            ":1: etcd = \"10.0.0.1:2379\": not allowed; allowed: at most 16 of http://HOST:PORT or https://HOST:PORT, \
             and not together with gossip",
        ),
        (
            "gossip = \"192.0.2.1:7946\"\netcd = \"http://10.0.0.1:2379\"",
            ":2: etcd = \"http://10.0.0.1:2379\": a node is in one cluster, by gossip or by this",
        ),
        (
            "etcd = \"http://10.0.0.1:2379\"\netcd-user = \"x\"",
            ":2: etcd-user = \"x\": means nothing without etcd-password",
        ),
        (
            "etcd-ca = \"/nonexistent\"",
            ":1: etcd-ca = \"/nonexistent\": No such file or directory (os error 2)",
        ),
        (
            "[[probe]]\nid = \"p1\"",
            ":1: [[probe]] without probe-address; allowed: an address that the nodes reach, with port, as 192.0.2.1:5060",
        ),
        (
            "[[probe]]\nid = \"p1\"\naddress = \"192.0.2.1:5060\"\ninterval = \"1m\"",
            ":4: probe-interval = \"1m\": not allowed; allowed: a time such as 100ms, 2s, 5m or plain seconds, from 500ms to 32s",
        ),
        (
            "[[probe]]\nid = \"p1\"\naddress = \"192.0.2.1:5060\"\n[[probe]]\nid = \"p1\"\naddress = \"192.0.2.2:5060\"",
            ":5: probe-id = \"p1\": not allowed; allowed: 1 to 64 of letters, digits, '.', '_', '-', of no other server",
        ),
        (
            "[[probe]]\nname = \"p1\"",
            ":2: unknown key probe-name; the keys are those of `fanfare serve --help`",
        ),
        (
            "[[adapter]]\ndomain = \"example.com\"",
            ":1: [[adapter]] without adapter-kind; allowed: one of redirect, dns, dispatcher",
        ),
        (
            "[[adapter]]\nkind = \"redirect\"\ndomain = \"example.com\"",
            ":1: [[adapter]] without adapter-listen; allowed: an address of this machine with port, as 192.0.2.1:5060",
        ),
        (
            "[[adapter]]\nkind = \"dispatcher\"\ndomain = \"example.com\"\nrpc = \"127.0.0.1:5080\"",
            ":4: adapter-rpc = \"127.0.0.1:5080\": not allowed; allowed: http://HOST[:PORT]/RPC, or https",
        ),
        (
            "[[adapter]]\nkind = \"redirect\"\ndomain = \"example.com\"\nlisten = \"127.0.0.1:5070\"\nttl = \"1s\"",
            ":5: adapter-ttl = \"1s\": not allowed; allowed: no such key for this kind",
        ),
        (
            "probe = 5",
            ":1: unknown key probe; the keys are those of `fanfare serve --help`",
        ),
        (
            "[cluster]\nsecret = \"short\"",
            ":2: cluster-secret = (a secret): not allowed; allowed: a text of 8 to 256 bytes",
        ),
        (
            "# x\nlisten = [\n  \"127.0.0.1:5060\",\n  \"localhost:5060\",\n]",
            ":4: listen = \"localhost:5060\": not allowed; allowed: at most 16 addresses with port, \
             as 192.0.2.1:5060 or [2001:db8::1]:5060, none covered twice",
        ),
        (
            "listen = [\"0.0.0.0:5060\",\n\"127.0.0.1:5060\"]",
            ":2: listen = \"127.0.0.1:5060\": covered by PATH:1: listen = \"0.0.0.0:5060\"; allowed: at most 16 \
             addresses with port, as 192.0.2.1:5060 or [2001:db8::1]:5060, none covered twice",
        ),
        (
            "domain = \"exa mple.com\"",
            ":1: domain = \"exa mple.com\": not allowed; allowed: at most 256 host names such as example.com, \
             or IP addresses, each once",
        ),
        (
            "domain = [\"a.example\", \"A.example.\"]",
            ":1: domain = \"A.example.\": covered by PATH:1: domain = \"a.example\"; allowed: at most 256 host names \
             such as example.com, or IP addresses, each once",
        ),
        (
            "allow-subscribe = [\"10.0.0.0/33\"]",
            ":1: allow-subscribe = \"10.0.0.0/33\": not allowed; allowed: at most 256 networks such as 192.0.2.0/24, \
             2001:db8::/32 or one address, each once",
        ),
        (
            "io = \"epoll\"",
            ":1: io = \"epoll\": not allowed; allowed: one of auto, uring, mmsg",
        ),
        (
            "resolver = \"yes\"",
            ":1: resolver = \"yes\": not allowed; allowed: true or false",
        ),
        (
            "node = \"a b\"",
            ":1: node = \"a b\": not allowed; allowed: 1 to 64 of letters, digits, '.', '_', '-'",
        ),
        (
            "min-interval = \"1 s\"",
            ":1: min-interval = \"1 s\": not allowed; allowed: a time such as 100ms, 2s, 5m or plain seconds, \
             from 0s to 60s",
        ),
        (
            "expires-least = \"1500ms\"",
            ":1: expires-least = \"1500ms\": not allowed; allowed: whole seconds such as 60, 60s or 5m, from 1 to 3600",
        ),
        (
            "expires-most = 90\nexpires-least = 60",
            ":1: expires-most = 90: below expires-default = 30m (the default); allowed: no less than that",
        ),
        (
            "advertise = \"0.0.0.0\"",
            ":1: advertise = \"0.0.0.0\": not allowed; allowed: an IP address that others can send to, one of each family",
        ),
        ("shards = 1\nshards = 2", ":2: no TOML: duplicate key"),
        (
            "node = \"a\\nb",
            ":1: no TOML: invalid basic string, expected `\"`",
        ),
    ] {
        let path = file(&directory, text);
        let path = path.to_str().unwrap();
        let line = complaint(&serve(&["--config", path]));
        assert_eq!(
            line,
            format!("{path}{}", expected.replace("PATH", path)),
            "{text}"
        );
    }
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    for (flags, expected) in [
        (
            &["--shards", "-1"][..],
            "--shards -1: not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            &["--node", "a\nb"],
            "--node a\\nb: not allowed; allowed: 1 to 64 of letters, digits, '.', '_', '-'",
        ),
        (
            &["--no-such-flag"],
            "unexpected argument '--no-such-flag' found; see --help",
        ),
        (
            &["--shards"],
            "a value is required for '--shards <N>' but none was supplied; see --help",
        ),
        (
            &["--config", "/no/such/file"],
            "/no/such/file: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(complaint(&serve(flags)), expected);
    }
}

#[test]
fn an_address_in_use_is_refused_in_one_line_that_names_it() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = complaint(&serve(&[
        "--listen", &address, "--io", "mmsg", "--shards", "1",
    ]));
    assert!(line.contains(&address), "{line}");
    assert!(line.contains("in use"), "{line}");
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let text = "shards = 3\nnode = \"from-file\"\ndomain = \"A.example\"\nmin-interval = \"250ms\"\nexpires-least = 90\n";
    let path = file(&directory, text);
    let config = config(&[
        "--config",
        path.to_str().unwrap(),
        "--node",
        "from-flag",
        "--shards=2",
    ]);
    assert_eq!(&*config.node, "from-flag");
    assert_eq!(config.shards, 2);
    assert_eq!(config.domains, ["a.example".into()]);
    assert_eq!(config.min_interval_ms, 250);
    assert_eq!(config.expires_least_s, 90);
    assert_eq!(config.expires_default_s, 1_800);
    assert_eq!(config.listen, ["127.0.0.1:5060".parse().unwrap()]);
}

#[test]
fn the_defaults_of_flags_and_core_agree() {
    let config = config(&["--shards", "1"]);
    let address = config.listen[0];
    let ours = config.settings(&[address], "fanfare");
    let core = fanfare::notifier::settings::Settings::for_address(address);
    assert_eq!(format!("{ours:?}"), format!("{core:?}"));
}

#[test]
fn lists_may_be_repeated_or_stand_between_commas() {
    let config = config(&[
        "--listen",
        "127.0.0.1:0,127.0.0.1:0",
        "--listen",
        "[::1]:0",
        "--allow-publish",
        "10.1.2.3/8",
    ]);
    assert_eq!(config.listen.len(), 3);
    assert_eq!(config.allow_publish, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn the_advertised_address_stands_in_via_and_contact() {
    let config = config(&[
        "--listen",
        "0.0.0.0:0,127.0.0.1:0",
        "--advertise",
        "192.0.2.9",
    ]);
    let bound = [
        "0.0.0.0:7000".parse().unwrap(),
        "127.0.0.1:7001".parse().unwrap(),
    ];
    let settings = config.settings(&bound, "x");
    assert_eq!(&*settings.listeners[0].sent_by, b"192.0.2.9:7000");
    assert_eq!(
        settings.listeners[0].contact(Transport::Udp),
        b"<sip:192.0.2.9:7000;gr=x>"
    );
    assert_eq!(&*settings.listeners[1].sent_by, b"127.0.0.1:7001");
}

#[test]
fn listening_wider_than_allowing_is_cautioned() {
    assert_eq!(config(&[]).cautions(), []);
    let wide = ["--listen", "0.0.0.0:0", "--advertise", "192.0.2.9"];
    let listen = "0.0.0.0:0".parse().unwrap();
    let caution = |key| Caution::WiderThanAllowed { listen, key };
    assert_eq!(
        config(&wide).cautions(),
        [caution("allow-subscribe"), caution("allow-publish")]
    );
    let open = [&wide[..], &["--allow-subscribe", "192.0.2.0/24"]].concat();
    assert_eq!(config(&open).cautions(), [caution("allow-publish")]);
}

#[test]
fn a_probe_has_the_defaults_of_the_event_package_and_its_keys_may_be_written_with_underscores() {
    let directory = tempfile::tempdir().unwrap();
    let servers = [
        "id = \"p1\"\naddress = \"192.0.2.1:5060\"",
        "id = \"p2\"\naddress = \"192.0.2.2:5060\"\ndown_after = 7\nup_after = 5",
        "id = \"p3\"\naddress = \"192.0.2.3:5060\"\ndown-after = 8\nup-after = 6",
    ];
    let text: String = servers
        .iter()
        .map(|server| format!("[[probe]]\n{server}\n"))
        .collect();
    let path = file(&directory, &text);
    let config = config(&["--config", path.to_str().unwrap()]);
    let found: Vec<(u64, u32, u32)> = config
        .probes
        .iter()
        .map(|probe| (probe.interval_ms, probe.down_after, probe.up_after))
        .collect();
    assert_eq!(found, [(2_000, 3, 2), (2_000, 7, 5), (2_000, 8, 6)]);
}

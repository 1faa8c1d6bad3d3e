//! Holds the import directions of the house: lower rooms never import higher ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms it may import. What is not listed here is no room of `src/`.
const ROOMS: &[(&str, &[&str])] = &[
    ("counters", &[]),
    ("wire", &[]),
    ("log", &[]),
    ("sip", &[]),
    ("info", &[]),
    ("io", &["wire"]),
    ("rendezvous", &[]),
    ("compositor", &["counters", "rendezvous", "sip", "info"]),
    (
        "cluster",
        &["log", "counters", "wire", "info", "compositor"],
    ),
    ("notifier", &["counters", "wire", "sip", "info"]),
    ("client", &["wire", "sip"]),
    ("publisher", &["wire", "sip", "info", "client"]),
    (
        "subscription",
        &["wire", "sip", "info", "client", "rendezvous"],
    ),
    ("resolver", &["wire", "notifier"]),
    (
        "subscriber",
        &["wire", "info", "client", "session", "subscription"],
    ),
    (
        "probe",
        &["wire", "info", "client", "counters", "rendezvous"],
    ),
    ("load", &[]),
    (
        "tool",
        &[
            "wire",
            "sip",
            "info",
            "client",
            "config",
            "session",
            "resolver",
            "notifier",
            "subscriber",
            "subscription",
        ],
    ),
    ("session", &["wire", "sip", "info", "client", "config"]),
    ("config", &["io", "notifier", "wire", "info", "probe"]),
    (
        "shard",
        &["log", "counters", "wire", "info", "io", "notifier"],
    ),
    (
        "control",
        &[
            "log",
            "counters",
            "wire",
            "sip",
            "info",
            "cluster",
            "compositor",
            "config",
            "load",
            "notifier",
            "probe",
            "resolver",
            "shard",
        ],
    ),
    (
        "server",
        &[
            "adapt",
            "tool",
            "wire",
            "info",
            "io",
            "cluster",
            "compositor",
            "config",
            "control",
            "notifier",
            "probe",
            "shard",
        ],
    ),
    (
        "publish",
        &[
            "wire",
            "sip",
            "info",
            "client",
            "config",
            "load",
            "publisher",
            "session",
            "tool",
        ],
    ),
    ("screen", &["info"]),
    (
        "demo",
        &[
            "client",
            "info",
            "publisher",
            "screen",
            "session",
            "sip",
            "subscriber",
            "subscription",
            "tool",
            "wire",
        ],
    ),
    (
        "watch",
        &[
            "screen",
            "wire",
            "sip",
            "info",
            "client",
            "config",
            "session",
            "subscriber",
            "subscription",
            "tool",
        ],
    ),
    ("dispatcher", &["info", "subscription"]),
    ("dns", &["info", "counters", "subscription"]),
    (
        "redirect",
        &["sip", "info", "client", "counters", "subscription"],
    ),
    (
        "adapt",
        &[
            "wire",
            "client",
            "config",
            "dispatcher",
            "dns",
            "info",
            "redirect",
            "session",
            "subscriber",
            "subscription",
            "tool",
        ],
    ),
    (
        "pick",
        &[
            "wire",
            "info",
            "client",
            "subscriber",
            "subscription",
            "tool",
        ],
    ),
];

/// What the pure rooms must not touch: clocks, sockets, threads.
const PURE: &[&str] = &[
    "wire",
    "sip",
    "info",
    "compositor",
    "notifier",
    "publisher",
    "subscription",
    "redirect",
    "dispatcher",
    "dns",
    "probe",
];
const IMPURE: &[&str] = &[
    "std::thread",
    "std::fs",
    "Instant::now",
    "SystemTime",
    "UdpSocket",
    "TcpStream",
    "tokio",
    "rand::rng()",
    "thread_rng",
    "Mutex",
];

fn sources() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut rooms: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for (path, text) in below("src") {
        let room = path.iter().nth(1).expect("a name").to_string_lossy();
        let room = room.trim_end_matches(".rs").to_owned();
        rooms.entry(room).or_default().push((path, text));
    }
    rooms
}

/// The Rust files below a folder, by their paths from the root.
fn below(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut pending = vec![root.join(folder)];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).expect("it is readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                let inside = path.strip_prefix(root).expect("below the root");
                files.push((inside.to_owned(), text));
            }
        }
    }
    files
}

/// The rooms that a text imports by `crate::`.
fn imports(text: &str) -> Vec<&str> {
    let after = text.split("crate::").skip(1);
    after
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .expect("split gives one")
        })
        .collect()
}

/// The text without its unit tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().expect("split gives one")
}

#[test]
fn lower_rooms_never_import_higher_ones() {
    let mut wrong = Vec::new();
    for (room, files) in sources() {
        if room == "lib" || room == "main" {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("src/{room} is no room of the house"));
            continue;
        };
        for (path, text) in files {
            for import in imports(production(&text)) {
                if import != room && !allowed.contains(&import) {
                    wrong.push(format!("{} imports {import}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_touch_no_clock_socket_or_thread() {
    let mut wrong = Vec::new();
    for (room, files) in sources()
        .into_iter()
        .filter(|(room, _)| PURE.contains(&room.as_str()))
    {
        for (path, text) in files {
            let uses = IMPURE
                .iter()
                .filter(|word| production(&text).contains(*word));
            wrong.extend(uses.map(|word| format!("{room}: {} uses {word}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_in_io_alone_and_where_the_measuring_side_has_sockets_of_its_own() {
    // loadgen and the yardstick share no code with what they judge.
    const OUTSIDE: [&str; 2] = ["loadgen/src/socket.rs", "benches/fanout/kernel.rs"];
    for (path, text) in ["src", "loadgen", "benches"].into_iter().flat_map(below) {
        let allowed =
            path.starts_with("src/io") || OUTSIDE.iter().any(|file| path == Path::new(file));
        assert!(
            allowed || !text.contains("allow(unsafe_code)"),
            "{} opens unsafe code",
            path.display()
        );
    }
}

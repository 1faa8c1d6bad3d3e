//! `loadgen pubsub` against a NATS that is right, and one that loses a message.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

type Subscribers = Arc<Mutex<Vec<TcpStream>>>;

/// A server that passes messages on, but the one of number `loses` not to its first subscriber.
fn serve(loses: u32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let subscribers = Subscribers::default();
        for stream in listener.incoming() {
            let subscribers = Arc::clone(&subscribers);
            thread::spawn(move || attend(stream?, &subscribers, loses));
        }
    });
    address
}

fn attend(mut stream: TcpStream, subscribers: &Subscribers, loses: u32) -> io::Result<()> {
    stream.write_all(b"INFO {}\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let (mut line, mut published) = (String::new(), 0);
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if line.starts_with("SUB ") {
            subscribers
                .lock()
                .expect("no panic")
                .push(stream.try_clone()?);
        } else if line.starts_with("PING") {
            stream.write_all(b"PONG\r\n")?;
        } else if let Some(rest) = line.strip_prefix("PUB ") {
            published += 1;
            let length: usize = rest
                .split_whitespace()
                .nth(1)
                .expect("a length")
                .parse()
                .expect("a number");
            let mut payload = vec![0; length + 2];
            lines.read_exact(&mut payload)?;
            let head = format!("MSG fanfare.loadgen 1 {length}\r\n");
            for (at, subscriber) in subscribers.lock().expect("no panic").iter_mut().enumerate() {
                if published != loses || at > 0 {
                    subscriber.write_all(head.as_bytes())?;
                    subscriber.write_all(&payload)?;
                }
            }
        }
        line.clear();
    }
    Ok(())
}

fn loadgen(server: SocketAddr) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["pubsub", "--nats", &server.to_string()])
        .args("--subscribers 9 --size 100 --duration 0.5 --changes 20 --grace 0.5".split(' '))
        .output()
        .expect("loadgen starts")
}

#[test]
fn a_right_server_has_delivered_all() {
    let output = loadgen(serve(0));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        shown.contains("10 of 100 bytes (10 measured), 90 deliveries, 0 missing"),
        "{shown}"
    );
    assert!(shown.contains("not acknowledged"), "{shown}");
}

#[test]
fn a_lost_message_is_found() {
    let output = loadgen(serve(4));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(shown.contains("89 deliveries, 1 missing"), "{shown}");
    assert!(shown.contains("1 gaps, 0 repeated"), "{shown}");
}

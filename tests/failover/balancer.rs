//! Kamailio as a load balancer whose destinations come by its RPC, or are in a list and probed by itself. Knows no table.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PATIENCE, Process, free_port, wait_until};

/// Its file of destinations, which is empty where they come otherwise.
const LIST: &str = "dispatcher.list";
/// How often other ports are tried where somebody else took those that were free.
const PORT_TRIES: usize = 5;

/// A server: id, weight, address.
pub type Destination<'a> = (&'a str, u16, SocketAddr);

pub struct Balancer {
    process: Process,
    pub sip: SocketAddr,
    http: SocketAddr,
    /// Where its RPC is.
    pub rpc: String,
    directory: TempDir,
    /// What its configuration is told (-A).
    definitions: Vec<String>,
}

impl Balancer {
    pub fn start() -> Balancer {
        Balancer::start_with(&[], "")
    }

    /// One that asks these servers by OPTIONS every so many seconds whether they live.
    pub fn start_probing(servers: &[Destination<'_>], every: Duration) -> Balancer {
        let line = |(id, weight, at): &Destination<'_>| {
            format!("1 sip:{at} 0 0 duid={id};rweight={weight}\n")
        };
        let list: String = servers.iter().map(line).collect();
        let probing = format!("PROBE_EVERY={}", every.as_secs());
        Balancer::start_with(&[probing], &list)
    }

    /// One that asks the name server for the servers of a request's domain, and knows no others.
    pub fn start_by_dns() -> Balancer {
        Balancer::start_with(&["BY_DNS".to_owned()], "")
    }

    fn start_with(definitions: &[String], list: &str) -> Balancer {
        for _ in 0..PORT_TRIES {
            let [sip, http] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
            let directory = tempfile::tempdir().expect("a temporary directory");
            fs::write(directory.path().join(LIST), list).expect("a file of destinations");
            let process = run(sip, http, &directory, definitions);
            let rpc = format!("http://{http}/RPC");
            let mut balancer = Balancer {
                process,
                sip,
                http,
                rpc,
                directory,
                definitions: definitions.to_vec(),
            };
            if balancer.is_up() {
                return balancer;
            }
        }
        panic!("Kamailio does not start");
    }

    fn is_up(&mut self) -> bool {
        let stderr = self.process.stderr_reader();
        let silent = || format!("Kamailio does not answer:\n{}", stderr());
        wait_until(&silent, || match self.process.ended() {
            Some(_) => Some(false),
            None => list(self.http).is_some().then_some(true),
        })
    }

    /// kill -9, of it and its children.
    pub fn kill(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait_at_most(PATIENCE);
    }

    /// Where it was before.
    pub fn start_again(&mut self) {
        self.process = run(self.sip, self.http, &self.directory, &self.definitions);
        assert!(self.is_up(), "{}", self.process.stderr());
    }

    /// Waits until its set has these servers and no others, each with whether calls are given to it; so many entries.
    pub fn await_set(&self, servers: &[(&str, bool)], entries: usize) {
        let wrong = || format!("{:?}\n{}", list(self.http), self.process.stderr());
        wait_until(&wrong, || {
            let list = list(self.http)?;
            is_set(&list, servers, entries).then_some(())
        });
    }

    /// Looks again and again for so long whether its set stays so.
    pub fn keeps_set(&self, servers: &[(&str, bool)], entries: usize, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let list = list(self.http).expect("Kamailio answers");
            assert!(is_set(&list, servers, entries), "{list:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Requests of its own so far: the OPTIONS, those repeated not counted.
    pub fn requests(&self) -> u64 {
        let answer = ask(self.http, "tm.stats").expect("Kamailio answers");
        answer["total_local"].as_u64().expect("a count")
    }
}

fn is_set(list: &[Value], servers: &[(&str, bool)], entries: usize) -> bool {
    let is_there = |(id, is_active): &(&str, bool)| {
        let of_it = |entry: &&Value| entry["ATTRS"]["DUID"] == *id;
        let active = |entry: &Value| {
            entry["FLAGS"]
                .as_str()
                .is_some_and(|flags| flags.starts_with('A'))
        };
        list.iter()
            .find(of_it)
            .is_some_and(|entry| active(entry) == *is_active)
    };
    list.len() == entries && servers.iter().all(is_there)
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Its children end with it only if it is told to end.
        if self.process.ended().is_none() {
            self.kill();
        }
    }
}

fn run(sip: SocketAddr, http: SocketAddr, directory: &TempDir, definitions: &[String]) -> Process {
    let path = directory.path();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failover/kamailio.cfg");
    let mut command = Command::new("kamailio");
    command
        .args(["-f", config, "-DD", "-E", "-m", "64", "-M", "4"])
        .args(["-l", &format!("udp:{sip}"), "-l", &format!("tcp:{http}")])
        .arg("-w")
        .arg(path)
        .arg("-Y")
        .arg(path)
        .arg("-P")
        .arg(path.join("pid"))
        .stdout(Stdio::null());
    let list = format!("LIST=\"{}\"", path.join(LIST).display());
    for definition in definitions.iter().chain([&list]) {
        command.args(["-A", definition]);
    }
    Process::start(&mut command, "kamailio")
}

/// The destinations that it has; `None`: it does not answer.
fn list(http: SocketAddr) -> Option<Vec<Value>> {
    let result = ask(http, "dispatcher.list")?;
    let Some(records) = result["RECORDS"].as_array() else {
        return Some(Vec::new());
    };
    let targets = records
        .iter()
        .flat_map(|record| record["SET"]["TARGETS"].as_array().into_iter().flatten());
    Some(targets.map(|target| target["DEST"].clone()).collect())
}

/// The result of a method without parameters; `None`: it does not answer.
fn ask(http: SocketAddr, method: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(http).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let body = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\",\"params\":[],\"id\":1}}");
    let request = format!(
        "POST /RPC HTTP/1.1\r\nHost: {http}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    Some(whole_answer(&mut stream)?["result"].take())
}

/// The body of an answer with a length. The connection is kept, so its end is not waited for.
fn whole_answer(stream: &mut TcpStream) -> Option<Value> {
    let mut text = Vec::new();
    let mut chunk = [0; 16_384];
    loop {
        let length = stream.read(&mut chunk).ok().filter(|length| *length > 0)?;
        text.extend_from_slice(&chunk[..length]);
        let all = String::from_utf8_lossy(&text);
        if let Some((_, body)) = all.split_once("\r\n\r\n")
            && let Ok(value) = serde_json::from_str(body)
        {
            return Some(value);
        }
    }
}

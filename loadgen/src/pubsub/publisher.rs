//! The connection that publishes. Knows neither what nor when.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Failure;
use super::protocol::{Protocol, Said};

/// Who publishes.
#[derive(Debug)]
pub struct Publisher {
    protocol: Protocol,
    stream: TcpStream,
    heard: Vec<u8>,
    out: Vec<u8>,
}

impl Publisher {
    pub fn connect(protocol: Protocol, target: SocketAddr) -> Result<Self, Failure> {
        let mut stream = TcpStream::connect(target).map_err(Failure::Connect)?;
        stream.set_nodelay(true)?;
        stream.write_all(protocol.greeting().as_bytes())?;
        Ok(Publisher {
            protocol,
            stream,
            heard: Vec::new(),
            out: Vec::new(),
        })
    }

    pub fn publish(&mut self, payload: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.protocol.publish(payload, &mut self.out);
        self.stream.write_all(&self.out)
    }

    /// Waits so long at most, and takes what the server says to the publisher.
    pub fn listen(&mut self, us: u64) -> Result<(), Failure> {
        let timeout = Timespec {
            tv_sec: (us / 1_000_000) as i64,
            tv_nsec: (us % 1_000_000 * 1_000) as i64,
        };
        let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Failure::Closed),
            Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        let mut from = 0;
        while let Some((said, used)) = self.protocol.next(&self.heard[from..])? {
            match said {
                Said::Ping => self.stream.write_all(b"PONG\r\n")?,
                Said::Error(reason) => return Err(Failure::refused(reason)),
                _ => {}
            }
            from += used;
        }
        self.heard.drain(..from);
        Ok(())
    }
}

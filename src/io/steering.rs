//! Answers go straight to the shard that asked: a classic BPF program, run by the kernel for each datagram of a
//! SO_REUSEPORT group, reads the shard's number out of the branch that we wrote. Knows the place of that number in a
//! response and nothing else of SIP. What it cannot read goes by the kernel's hash: slower, never lost.
//!
//! What it reads: `SIP/2.0 <status> <reason>CRLF`, `Via:` or `v:`, at most one space, `SIP/2.0/UDP <sent-by>;branch=z9hG4bK`
//! and two lower-case hexadecimal digits, the shard's place among the sockets.

use std::io;
use std::net::UdpSocket;

use super::sockets::set_option;

/// Reason phrases up to this length are found.
const REASON_MAX: u32 = 48;
const STATUS_LINE: u32 = "SIP/2.0 200 ".len() as u32;
const PROTOCOL: u32 = "SIP/2.0/UDP ".len() as u32;
const BRANCH: u32 = ";branch=".len() as u32;
const COOKIE: u32 = "z9hG4bK".len() as u32;
/// No socket has this number, so the kernel falls back to its hash.
const NONE: u32 = u32::MAX;

/// Steers answers among `sockets`, bound by `bind_shards` to one address. `sent_by` are the texts which stand in our Via
/// behind the transport (only their lengths matter). A single socket needs no steering.
pub fn attach(sockets: &[UdpSocket], sent_by: &[&str]) -> io::Result<()> {
    let [first, _, ..] = sockets else {
        return Ok(());
    };
    let mut lengths: Vec<u32> = sent_by.iter().map(|text| text.len() as u32).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut code = program(&lengths);
    let program = libc::sock_fprog {
        len: u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: code.as_mut_ptr(),
    };
    set_option(
        first,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        &program,
    )
}

fn program(sent_by: &[u32]) -> Vec<libc::sock_filter> {
    let longest = sent_by.last().copied().unwrap_or_default();
    let via = STATUS_LINE + REASON_MAX + "\r\nVia: ".len() as u32;
    let digits = PROTOCOL + longest + BRANCH + COOKIE;
    let mut code = Program::default();
    // A load beyond the datagram would end the program with 0, a shard's number. From this length on none can be; what is
    // shorter is not a whole response.
    code.load(libc::BPF_LEN, libc::BPF_W, 0);
    code.require(libc::BPF_JGE, via + digits + 2);
    code.load(libc::BPF_ABS, libc::BPF_W, 0);
    code.require(libc::BPF_JEQ, text(b"SIP/"));
    code.find_second_line();
    code.skip_via();
    code.load(libc::BPF_IND, libc::BPF_W, 0);
    code.require(libc::BPF_JEQ, text(b"SIP/"));
    for length in sent_by {
        code.read_shard(PROTOCOL + length + BRANCH);
    }
    code.give_up();
    code.0
}

fn text(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// Instructions in their order. The accumulator is A, the index X. There are no jumps backward.
#[derive(Debug, Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        let code = code as u16;
        self.0.push(libc::sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, mode: u32, size: u32, at: u32) {
        self.push(libc::BPF_LD | mode | size, at, 0, 0);
    }

    /// On `condition` goes on behind the next `when` instructions, else behind the next `otherwise`.
    fn branch(&mut self, condition: u32, k: u32, when: u8, otherwise: u8) {
        self.push(libc::BPF_JMP | condition, k, when, otherwise);
    }

    fn jump(&mut self, over: u32) {
        self.push(libc::BPF_JMP | libc::BPF_JA, over, 0, 0);
    }

    fn compute(&mut self, operation: u32, k: u32) {
        self.push(libc::BPF_ALU | operation, k, 0, 0);
    }

    fn give_up(&mut self) {
        self.push(libc::BPF_RET, NONE, 0, 0);
    }

    fn require(&mut self, condition: u32, k: u32) {
        self.branch(condition, k, 1, 0);
        self.give_up();
    }

    fn refuse(&mut self, condition: u32, k: u32) {
        self.branch(condition, k, 0, 1);
        self.give_up();
    }

    /// X = what follows the first CRLF behind the status code.
    fn find_second_line(&mut self) {
        for tried in 0..=REASON_MAX {
            let place = STATUS_LINE + tried;
            self.load(libc::BPF_ABS, libc::BPF_H, place);
            self.branch(libc::BPF_JEQ, text(b"\r\n"), 0, 2);
            self.push(libc::BPF_LDX, place + 2, 0, 0);
            self.jump(4 * (REASON_MAX - tried) + 1);
        }
        self.give_up();
    }

    /// X goes behind `Via:` or `v:`, in any case, and one space.
    fn skip_via(&mut self) {
        self.load(libc::BPF_IND, libc::BPF_W, 0);
        self.compute(libc::BPF_OR, text(b"   \0"));
        self.branch(libc::BPF_JEQ, text(b"via:"), 7, 0);
        self.load(libc::BPF_IND, libc::BPF_H, 0);
        self.compute(libc::BPF_OR, text(b" \0"));
        self.require(libc::BPF_JEQ, text(b"v:"));
        self.push(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0);
        self.compute(libc::BPF_ADD, "v:".len() as u32);
        self.jump(2);
        self.push(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0);
        self.compute(libc::BPF_ADD, "Via:".len() as u32);
        self.push(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0);
        self.load(libc::BPF_IND, libc::BPF_B, 0);
        self.branch(libc::BPF_JEQ, text(b" "), 0, 3);
        self.push(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0);
        self.compute(libc::BPF_ADD, 1);
        self.push(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0);
    }

    /// Returns the shard if the cookie stands `at` bytes behind X; else goes on behind.
    fn read_shard(&mut self, at: u32) {
        let mut reading = Program::default();
        reading.load(libc::BPF_IND, libc::BPF_B, at + COOKIE);
        reading.hexadecimal();
        reading.compute(libc::BPF_LSH, 4);
        reading.push(libc::BPF_ST, 0, 0, 0);
        reading.load(libc::BPF_IND, libc::BPF_B, at + COOKIE + 1);
        reading.hexadecimal();
        reading.push(libc::BPF_LDX | libc::BPF_MEM, 0, 0, 0);
        reading.push(libc::BPF_ALU | libc::BPF_OR | libc::BPF_X, 0, 0, 0);
        reading.push(libc::BPF_RET | libc::BPF_A, 0, 0, 0);
        let over = reading.0.len() as u8;
        self.load(libc::BPF_IND, libc::BPF_W, at);
        self.branch(libc::BPF_JEQ, text(b"z9hG"), 0, over + 4);
        self.load(libc::BPF_IND, libc::BPF_H, at + 4);
        self.branch(libc::BPF_JEQ, text(b"4b"), 0, over + 2);
        self.load(libc::BPF_IND, libc::BPF_B, at + 6);
        self.branch(libc::BPF_JEQ, text(b"K"), 0, over);
        self.0.append(&mut reading.0);
    }

    /// A = the value of the lower-case digit in A.
    fn hexadecimal(&mut self) {
        self.branch(libc::BPF_JGE, text(b"a"), 6, 0);
        self.require(libc::BPF_JGE, text(b"0"));
        self.refuse(libc::BPF_JGT, text(b"9"));
        self.compute(libc::BPF_SUB, text(b"0"));
        self.jump(3);
        self.refuse(libc::BPF_JGT, text(b"f"));
        self.compute(libc::BPF_SUB, text(b"a") - 10);
    }
}

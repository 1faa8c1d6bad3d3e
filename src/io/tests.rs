//! Tests of the engine for which the kernel must be made to refuse: no safe interface offers that.

#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::thread;

use super::sockets::{bind_shards, set_option};
use super::*;
use crate::wire::Flow;

const LOCALHOST: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = bind_shards(LOCALHOST.into(), 1, None).unwrap().remove(0);
    let address = socket.local_addr().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (socket, address)
}

fn put(batch: &mut Batch, peer: SocketAddr, bytes: &[u8]) {
    let flow = Flow::udp(0, peer);
    batch.next(flow).unwrap().bytes.extend_from_slice(bytes);
}

#[test]
fn where_segmentation_fails_the_run_goes_singly_and_so_do_the_next() {
    for kind in [Kind::Uring, Kind::Mmsg] {
        let (socket, _) = socket();
        // The kernel does not segment for a socket that sends no checksums: EINVAL.
        set_option(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1i32).unwrap();
        let (mut engine, _waker) = Engine::open(kind, vec![socket], true).unwrap();
        let (peer, address) = self::socket();
        let mut batch = Batch::new(10);
        for round in 0..2u8 {
            for number in 0..10 {
                put(&mut batch, address, &[round * 10 + number; 300]);
            }
            let turn = engine.turn(&mut batch, Duration::ZERO, &mut |_| {});
            let turn = turn.unwrap();
            batch.clear();
            assert_eq!((turn.sent, turn.gso_runs), (10, 0), "{kind}");
            assert_eq!(turn.gso_off, round == 0, "{kind}");
            assert!(turn.failed.is_empty());
            for number in 0..10 {
                let mut bytes = [0; 400];
                let len = peer.recv(&mut bytes).unwrap();
                assert_eq!(bytes[..len], [round * 10 + number; 300]);
            }
        }
    }
}

/// From here on this thread, and no other, gets `errno` for the system call.
fn forbid(call: libc::c_long, errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut code = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32)
        },
        statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: both calls change only what this thread may do; the program is read during the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let filter = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, filter, &program), 0);
    }
}

#[test]
fn where_io_uring_is_forbidden_auto_says_why_and_does_without() {
    let (setup, enter) = (libc::SYS_io_uring_setup, libc::SYS_io_uring_enter);
    for (call, errno, reason) in [
        (setup, libc::EPERM, Unavailable::Forbidden),
        (setup, libc::ENOSYS, Unavailable::NoSuchCall),
        (setup, libc::ENOMEM, Unavailable::Memory),
        (enter, libc::EPERM, Unavailable::Forbidden),
        (
            libc::SYS_io_uring_register,
            libc::EACCES,
            Unavailable::Denied,
        ),
    ] {
        thread::spawn(move || {
            forbid(call, errno);
            let refused = Engine::open(Kind::Uring, vec![socket().0], true);
            let Err(OpenError::Unavailable(named)) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(named, reason);

            let (mut engine, _waker) = Engine::open(Kind::Auto, vec![socket().0], true).unwrap();
            assert_eq!(engine.kind(), Kind::Mmsg);
            assert_eq!(engine.fallback_reason(), Some(&reason));
            let (peer, address) = socket();
            let mut batch = Batch::new(1);
            put(&mut batch, address, b"still there");
            let turn = engine.turn(&mut batch, Duration::ZERO, &mut |_| {});
            assert_eq!(turn.unwrap().sent, 1);
            let mut bytes = [0; 32];
            let len = peer.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..len], *b"still there");
        })
        .join()
        .unwrap();
    }
}

#[test]
fn where_io_uring_is_allowed_auto_takes_it() {
    let (engine, _waker) = Engine::open(Kind::Auto, vec![socket().0], true).unwrap();
    assert_eq!(engine.kind(), Kind::Uring);
    assert_eq!(engine.fallback_reason(), None);
}

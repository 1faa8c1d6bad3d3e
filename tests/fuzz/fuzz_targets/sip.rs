//! Any bytes as a message: scanned, parsed, answered, and framed as a stream. What is answered must itself be a message,
//! and a stream's frame must end where the scan ends.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use fanfare::sip::answer::answer;
use fanfare::sip::request::Request;
use fanfare::sip::scan::{Frame, frame, scan};
use fanfare::sip::write::Responder;
use libfuzzer_sys::fuzz_target;

const MOST: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let framed = frame(bytes, MOST, MOST);
    // The fast path of answers must not panic on what the full parse refuses.
    let _ = answer(bytes);
    let Ok(message) = scan(bytes) else {
        return;
    };
    if let Frame::Complete(length) = framed {
        assert_eq!(length, message.length);
    }
    // A request that is malformed is answered too.
    let _ = Request::parse(&message);
    if !message.is_request() {
        return;
    }
    let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
    let mut out = Vec::new();
    let responder = Responder::new(&message, 400, source).to_tag(b"tag");
    if let Ok(mut response) = responder.begin(&mut out) {
        response.warning("fuzz", "a text");
        response.finish();
        let answered = scan(&out).expect("our own response is a message");
        assert!(!answered.is_request());
        assert_eq!(answered.length, out.len());
    }
});

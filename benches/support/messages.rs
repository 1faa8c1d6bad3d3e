//! Messages as peers of the field send them, and what the head of a NOTIFY says.

use fanfare::sip::write::{Notify, SubscriptionState};

pub const SUBSCRIBE: &[u8] = b"SUBSCRIBE sip:example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 127.1.2.3:5060;rport;branch=z9hG4bKPj0000002a3c26700857a87f84\r\n\
    Max-Forwards: 70\r\n\
    From: <sip:entity0000042@example.com>;tag=ft0000002a\r\n\
    To: <sip:example.com>\r\n\
    Call-ID: 3c26700857a87f84-0000002a@entity.example.com\r\n\
    CSeq: 1 SUBSCRIBE\r\n\
    Contact: <sip:entity0000042-registered@127.1.2.3;transport=udp>\r\n\
    Event: SIPserver\r\n\
    Accept: application/serverinfo+xml\r\n\
    Expires: 3600\r\n\
    Content-Length: 0\r\n\r\n";

pub const OK: &[u8] = b"SIP/2.0 200 OK\r\n\
    Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK000000010000017g5o3r20000004;rport=5060;received=127.0.0.1\r\n\
    From: <sip:example.com>;tag=000000010000017g5o3r\r\n\
    To: <sip:entity0000042@example.com>;tag=ft0000002a\r\n\
    Call-ID: 3c26700857a87f84-0000002a@entity.example.com\r\n\
    CSeq:          4 NOTIFY\r\n\
    Content-Length: 0\r\n\r\n";

pub const NOTIFY: Notify<'static> = Notify {
    target: b"sip:entity0000042-registered@127.1.2.3;transport=udp",
    via: b" SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=",
    branch: b"z9hG4bK000000010000017g5o3r20000004",
    routes: b"",
    from_uri: b"sip:example.com",
    from_tag: b"000000010000017g5o3r",
    to_uri: b"sip:entity0000042@example.com",
    to_tag: b"ft0000002a",
    call_id: b"3c26700857a87f84-0000002a@entity.example.com",
    cseq: 4,
    event_id: None,
    state: SubscriptionState::Active { expires: 3_599 },
    max_rate: None,
    min_rate: None,
    etag: b"6661727331797537",
    contact: b" NOTIFY\r\nContact: <sip:127.0.0.1:5060;gr=fanfare>\r\nEvent: SIPserver",
    content: b"\r\nContent-Type: application/serverinfo+xml\r\nContent-Length: 741\r\n\r\n",
};

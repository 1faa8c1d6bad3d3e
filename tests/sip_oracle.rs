//! Two other SIP parsers as oracles: on generated messages that all three take, they must read the same.
//! Of rsip and ezk-sip-types only what they do right is asked: long names, no folding, no IPv6 in Via and URIs.

use ezk_sip_types::header::typed as ezk;
use ezk_sip_types::msg::{MessageLine, PullParser};
use fanfare::sip::answer::answer;
use fanfare::sip::request::Request;
use fanfare::sip::scan::{Start, scan};
use proptest::prelude::*;
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::HeadersExt;

/// What is compared, as text.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    start: String,
    call_id: String,
    cseq: (u32, String),
    from_tag: Option<String>,
    to_tag: Option<String>,
    branch: Option<String>,
    body: Vec<u8>,
}

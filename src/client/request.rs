//! Writes requests. rsip gives methods, header fields and their writing; the Request-URI and the Via stay texts, since rsip
//! has no IPv6 there. Knows no transaction.

use rsip::headers::{
    CSeq, CallId, ContentLength, ContentType, From, MaxForwards, To, UntypedHeader, Via,
};
use rsip::{Header, Headers, Method, Version};

use super::Local;

/// One request, before its transaction gives it a branch.
#[derive(Debug, Clone)]
pub struct Draft {
    pub method: Method,
    /// The Request-URI.
    pub uri: String,
    /// The whole values of From and To, tags included.
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub cseq: u32,
    /// All header fields that not every request has.
    pub headers: Vec<Header>,
    pub body: Option<(&'static str, Vec<u8>)>,
}

impl Draft {
    pub(super) fn write(self, local: &Local, branch: &str) -> Vec<u8> {
        let (transport, address) = (local.transport.via_name(), local.address);
        let via = format!("SIP/2.0/{transport} {address};branch={branch};rport");
        let start = format!("{} {} {}", self.method, self.uri, Version::V2);
        let (content_type, body) = self.body.unzip();
        let body = body.unwrap_or_default();
        let mut headers = Headers::default();
        headers.extend(vec![
            Via::new(via).into(),
            MaxForwards::new("70").into(),
            From::new(self.from).into(),
            To::new(self.to).into(),
            CallId::new(self.call_id).into(),
            CSeq::new(format!("{} {}", self.cseq, self.method)).into(),
        ]);
        headers.extend(self.headers);
        if let Some(content_type) = content_type {
            headers.push(ContentType::new(content_type).into());
        }
        headers.push(ContentLength::new(body.len().to_string()).into());
        let head = format!("{start}\r\n{headers}\r\n");
        [head.as_bytes(), &body].concat()
    }
}

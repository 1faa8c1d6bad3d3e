//! What RFC 4475 wants of each of its 49 messages from a notifier that knows SUBSCRIBE, PUBLISH and OPTIONS, answers
//! 405 to the other methods of the RFCs and 501 to unknown ones. Where the RFC leaves a choice, the stricter one is
//! taken, and 501 for an unknown method whose CSeq does not match (3.1.2.18).

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Well formed: a request for the notifier to judge further, or a response for a transaction to match.
    Parses,
    /// A request answered so by what the parse alone found.
    Status(u16),
    /// Nothing is sent.
    Dropped,
}

use Expected::{Dropped, Parses, Status};

pub const VERDICTS: [(&str, Expected); 49] = [
    // 3.1.1 valid
    ("wsinv.dat", Status(405)),
    ("intmeth.dat", Status(501)),
    ("esc01.dat", Status(405)),
    ("escnull.dat", Status(405)),
    ("esc02.dat", Status(501)),
    ("lwsdisp.dat", Parses),
    ("longreq.dat", Status(405)),
    ("dblreq.dat", Status(405)),
    ("semiuri.dat", Parses),
    ("transports.dat", Parses),
    ("mpart01.dat", Status(405)),
    ("unreason.dat", Parses),
    ("noreason.dat", Parses),
    // 3.1.2 invalid
    ("badinv01.dat", Status(400)),
    ("clerr.dat", Status(400)),
    ("ncl.dat", Status(400)),
    ("scalar02.dat", Status(400)),
    ("scalarlg.dat", Dropped),
    ("quotbal.dat", Status(400)),
    ("ltgtruri.dat", Status(400)),
    ("lwsruri.dat", Status(400)),
    ("lwsstart.dat", Status(400)),
    ("trws.dat", Status(400)),
    ("escruri.dat", Status(400)),
    // 3.1.2.12: not to be refused for a Date that is of no importance here.
    ("baddate.dat", Status(405)),
    ("regbadct.dat", Status(400)),
    ("badaspec.dat", Status(400)),
    ("baddn.dat", Status(400)),
    ("badvers.dat", Status(505)),
    ("mismatch01.dat", Status(400)),
    ("mismatch02.dat", Status(501)),
    ("bigcode.dat", Dropped),
    // 3.2 transaction layer
    ("badbranch.dat", Status(400)),
    // 3.3 application layer
    ("insuf.dat", Status(400)),
    ("unkscm.dat", Status(416)),
    ("novelsc.dat", Status(416)),
    // 3.3.4: only a registrar refuses these schemes.
    ("unksm2.dat", Status(405)),
    ("bext01.dat", Parses),
    ("invut.dat", Status(405)),
    ("regaut01.dat", Status(405)),
    ("multi01.dat", Status(400)),
    ("mcl01.dat", Status(400)),
    ("bcast.dat", Dropped),
    // 3.3.11: an endpoint goes on as if Max-Forwards were positive.
    ("zeromf.dat", Parses),
    ("cparam01.dat", Status(405)),
    ("cparam02.dat", Status(405)),
    ("regescrt.dat", Status(405)),
    ("sdp01.dat", Status(405)),
    // 3.4 backward compatibility
    ("inv2543.dat", Status(405)),
];

/// The final answers to those requests that parse. What parses and does not stand here is a response.
pub const ANSWERED: [(&str, u16); 5] = [
    ("lwsdisp.dat", 200),
    ("semiuri.dat", 200),
    ("transports.dat", 200),
    ("bext01.dat", 420),
    ("zeromf.dat", 200),
];

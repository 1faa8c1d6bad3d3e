//! Any bytes as a document, a publication or a filter, in each format; what is read and written again reads the same.
#![no_main]

use fanfare::info::{self, Filter, Format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // An equal text gives an equal filter, whatever it is.
    if let Ok(filter) = Filter::parse(bytes) {
        assert_eq!(Some(filter), Filter::parse(bytes).ok());
    }
    for format in [Format::Xml, Format::Json] {
        if let Ok(document) = info::parse(bytes, format) {
            assert_eq!(Some(document), info::parse(bytes, format).ok());
        }
        if let Ok(publication) = info::publication(bytes, format) {
            assert!(info::is_id(&publication.server.id));
        }
    }
});

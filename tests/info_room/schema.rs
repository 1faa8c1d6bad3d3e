//! What is rendered holds to src/info/serverinfo.xsd, as xmllint of Debian's libxml2-utils sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fanfare::info::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::worlds::{any_filter, any_view, example, server};

fn xmllint(files: &[PathBuf]) -> Output {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/info/serverinfo.xsd");
    let mut command = Command::new("xmllint");
    command
        .args(["--noout", "--nonet", "--schema"])
        .arg(schema)
        .args(files);
    command
        .output()
        .unwrap_or_else(|error| panic!("xmllint (Debian: libxml2-utils) is needed: {error}"))
}

fn write(folder: &Path, documents: Vec<Vec<u8>>) -> Vec<PathBuf> {
    let write = |(place, bytes): (usize, Vec<u8>)| {
        let file = folder.join(format!("{place}.xml"));
        std::fs::write(&file, bytes).unwrap();
        file
    };
    documents.into_iter().enumerate().map(write).collect()
}

fn rendered(view: &View) -> Vec<Vec<u8>> {
    let entries = || view.entries.iter().map(|entry| &**entry);
    let changes: Vec<Change<'_>> = entries()
        .enumerate()
        .map(|(place, entry)| match place % 3 {
            0 => Change::Left {
                id: &entry.server.id,
                updated: &entry.server.updated,
            },
            _ => Change::of(entry),
        })
        .collect();
    let mut documents = vec![
        full(view, entries(), Format::Xml).to_vec(u32::MAX),
        part(view, entries(), 2, 3, Format::Xml).to_vec(1),
        partial(view, 7, &changes, Format::Xml).to_vec(12),
    ];
    let publications = entries().map(|entry| publication_body("*", &entry.server, Format::Xml));
    documents.extend(publications);
    documents
}

#[test]
fn all_that_is_rendered_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let mut documents = rendered(&example());
    for _ in 0..60 {
        let view = any_view().new_tree(&mut runner).unwrap().current();
        documents.extend(rendered(&view));
        let filter = any_filter().new_tree(&mut runner).unwrap().current();
        documents.push(filter.canonical());
    }
    let output = xmllint(&write(folder.path(), documents));
    let errors = String::from_utf8_lossy(&output.stderr);
    let failed: Vec<&str> = errors
        .lines()
        .filter(|line| !line.ends_with("validates"))
        .collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
}

#[test]
fn what_is_refused_when_read_is_invalid() {
    let good = String::from_utf8(publication_body("d", &server("p1"), Format::Xml)).unwrap();
    let changes = [
        ("id=\"p1\"", "id=\"p 1\""),
        ("id=\"p1\"", ""),
        ("port=\"5060\"", "port=\"0\""),
        ("port=\"5060\"", "port=\"65536\""),
        ("\"udp\"", "\"sctp\""),
        ("status=\"up\"", "status=\"up\" load=\"101\""),
        ("urn:fanfare:serverinfo:1", "urn:fanfare:serverinfo:2"),
        (" domain=\"d\"", ""),
        ("priority=\"0\"", "priority=\"-1\""),
    ];
    let folder = tempfile::tempdir().unwrap();
    let bad: Vec<String> = changes
        .iter()
        .map(|(from, to)| good.replacen(from, to, 1))
        .collect();
    assert!(publication(good.as_bytes(), Format::Xml).is_ok());
    let files = write(
        folder.path(),
        bad.iter().map(|text| text.clone().into_bytes()).collect(),
    );
    for (text, file) in bad.iter().zip(files) {
        assert!(publication(text.as_bytes(), Format::Xml).is_err(), "{text}");
        assert!(!xmllint(&[file]).status.success(), "{text}");
    }
}

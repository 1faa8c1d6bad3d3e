//! The zone asked by messages as a resolver writes them.

use super::*;
use crate::info::{Format, parse};

const TWO: &str = r#"{"id":"a","status":"up","load":50,"priority":1,"weight":2,"updated":"5.0.n1","services":["proxy"],
    "addresses":[{"ip":"192.0.2.1","port":5060,"transport":"udp"},{"ip":"2001:db8::1","port":5060,"transport":"udp"},
    {"ip":"192.0.2.1","port":5061,"transport":"tls","host":"a.example.com"}]},
    {"id":"b","status":"up","load":0,"priority":1,"weight":1,"updated":"5.0.n1","services":["proxy"],
    "addresses":[{"ip":"192.0.2.2","port":5062,"transport":"udp"}]}"#;

fn table(servers: &str) -> Table {
    let text = format!(
        "{{\"domain\":\"example.com\",\"notifier\":\"n@1\",\"version\":1,\"view\":7,\"state\":\"full\",\"servers\":[{servers}]}}"
    );
    let mut table = Table::new();
    table.apply(parse(text.as_bytes(), Format::Json).expect("a document"));
    table
}

fn zone() -> Zone {
    let own = Some([192, 0, 2, 53].into());
    Zone::new("Example.com", Some("proxy".into()), 1, own).expect("a name")
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn query(text: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(name(text), kind));
    query
}

fn asked(zone: &mut Zone, table: &Table, query: &Message) -> Message {
    let bytes = query.to_vec().expect("a query");
    let answer = zone.answer(table, &bytes, Carrier::Udp).expect("an answer");
    let answer = Message::from_vec(&answer).expect("well formed");
    assert_eq!(answer.metadata.id, query.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer
}

fn ask(table: &Table, text: &str, kind: RecordType) -> Message {
    asked(&mut zone(), table, &query(text, kind))
}

fn data(answer: &Message) -> Vec<String> {
    let mut data: Vec<String> = answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    data.sort();
    data
}

#[test]
fn srv_says_where_with_shares_for_weights_and_brings_the_addresses() {
    let answer = ask(&table(TWO), "_SIP._udp.example.COM.", RecordType::SRV);
    assert!(answer.metadata.authoritative);
    assert_eq!(
        data(&answer),
        [
            "1 1000 5060 192-0-2-1.example.com.",
            "1 1000 5060 2001-db8-0-0-0-0-0-1.example.com.",
            "1 1000 5062 192-0-2-2.example.com.",
        ]
    );
    assert!(answer.answers.iter().all(|record| record.ttl == 1));
    assert_eq!(answer.additionals.len(), 3);
    let tls = ask(&table(TWO), "_sips._tcp.example.com.", RecordType::SRV);
    assert_eq!(data(&tls), ["1 1000 5061 a.example.com."]);
    assert_eq!(
        data(&ask(&table(TWO), "a.example.com.", RecordType::A)),
        ["192.0.2.1"]
    );
    let v6 = ask(
        &table(TWO),
        "2001-db8-0-0-0-0-0-1.example.com.",
        RecordType::AAAA,
    );
    assert_eq!(data(&v6), ["2001:db8::1"]);
}

#[test]
fn who_is_down_is_not_named_and_nobody_left_is_a_dot() {
    let down = TWO.replacen("\"up\"", "\"down\"", 1);
    let answer = ask(&table(&down), "_sip._udp.example.com.", RecordType::SRV);
    assert_eq!(data(&answer), ["1 1000 5062 192-0-2-2.example.com."]);
    let draining = down.replace("\"up\"", "\"draining\"");
    let answer = ask(&table(&draining), "_sip._udp.example.com.", RecordType::SRV);
    assert_eq!(data(&answer), ["1 1000 5062 192-0-2-2.example.com."]);
    let all = TWO.replace("\"up\"", "\"down\"");
    let answer = ask(&table(&all), "_sip._udp.example.com.", RecordType::SRV);
    assert_eq!(data(&answer), ["0 0 0 ."]);
    let nobody = ask(&table(""), "_sip._udp.example.com.", RecordType::SRV);
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(nobody.authorities.len(), 1);
    let unknown = ask(&Table::new(), "_sip._udp.example.com.", RecordType::SRV);
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
    assert!(!unknown.metadata.authoritative);
}

#[test]
fn naptr_names_the_transports_that_are_spoken() {
    let answer = ask(&table(TWO), "example.com.", RecordType::NAPTR);
    let services: Vec<String> = data(&answer);
    assert_eq!(services.len(), 2, "{services:?}");
    assert!(services[0].contains("SIP+D2U") && services[0].contains("_sip._udp.example.com."));
    assert!(services[1].contains("SIPS+D2T"));
    let soa = ask(&table(TWO), "example.com.", RecordType::SOA);
    assert!(data(&soa)[0].contains(" 7 "), "{:?}", data(&soa));
    assert_eq!(
        data(&ask(&table(TWO), "ns.example.com.", RecordType::A)),
        ["192.0.2.53"]
    );
}

#[test]
fn what_is_not_ours_is_refused_as_the_rfcs_say() {
    let table = table(TWO);
    let code = |answer: &Message| answer.metadata.response_code;
    for (name, kind) in [
        ("example.org.", RecordType::SRV),
        ("com.", RecordType::NS),
        ("example.com.", RecordType::AXFR),
    ] {
        let answer = ask(&table, name, kind);
        assert_eq!(
            (code(&answer), answer.answers.len()),
            (ResponseCode::Refused, 0)
        );
        assert!(!answer.metadata.authoritative);
    }
    let mut chaos = query("example.com.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        code(&asked(&mut zone(), &table, &chaos)),
        ResponseCode::Refused
    );
    let any = ask(&table, "_sip._udp.example.com.", RecordType::ANY);
    assert_eq!(any.answers.len(), 1);
    assert_eq!(any.answers[0].record_type(), RecordType::HINFO);
    let nodata = ask(&table, "_sip._udp.example.com.", RecordType::A);
    assert_eq!(
        (
            code(&nodata),
            nodata.answers.len(),
            nodata.authorities.len()
        ),
        (ResponseCode::NoError, 0, 1)
    );
    let nothing = ask(&table, "other.example.com.", RecordType::A);
    assert_eq!(code(&nothing), ResponseCode::NXDomain);
    assert_eq!(
        code(&ask(&table, "_udp.example.com.", RecordType::SRV)),
        ResponseCode::NoError
    );
    let mut two = query("example.com.", RecordType::SOA);
    two.add_query(Query::query(name("example.com."), RecordType::NS));
    assert_eq!(
        code(&asked(&mut zone(), &table, &two)),
        ResponseCode::FormErr
    );
    let mut update = query("example.com.", RecordType::SOA);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(
        code(&asked(&mut zone(), &table, &update)),
        ResponseCode::NotImp
    );
    let mut later = query("example.com.", RecordType::SOA);
    let mut edns = Edns::new();
    edns.set_version(1);
    later.edns = Some(edns);
    let answer = asked(&mut zone(), &table, &later);
    // 16 is the code of BADSIG too, and that is what it is read as.
    assert_eq!(u16::from(code(&answer)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn what_cannot_be_read_is_told_so_or_dropped() {
    let mut zone = zone();
    let mut query = query("example.com.", RecordType::SOA)
        .to_vec()
        .expect("a query");
    query.truncate(20);
    let answer = zone
        .answer(&Table::new(), &query, Carrier::Udp)
        .expect("an answer");
    let answer = Message::from_vec(&answer).expect("well formed");
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    let response = answer.to_vec().expect("a message");
    for bytes in [&b""[..], b"\x00\x01rubbish", &response] {
        assert_eq!(zone.answer(&Table::new(), bytes, Carrier::Udp), None);
    }
    assert_eq!((zone.counters.malformed, zone.counters.dropped), (1, 3));
}

#[test]
fn an_answer_too_large_for_a_datagram_is_cut_and_whole_over_tcp() {
    let servers: Vec<String> = (1..100)
        .map(|number| {
            format!(
                "{{\"id\":\"s{number}\",\"status\":\"up\",\"updated\":\"5.0.n1\",\"services\":[\"proxy\"],\
                 \"addresses\":[{{\"ip\":\"192.0.2.{number}\",\"port\":5060,\"transport\":\"udp\"}}]}}"
            )
        })
        .collect();
    let table = table(&servers.join(","));
    let (mut zone, query) = (zone(), query("_sip._udp.example.com.", RecordType::SRV));
    let cut = asked(&mut zone, &table, &query);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let bytes = query.to_vec().expect("a query");
    let whole = zone
        .answer(&table, &bytes, Carrier::Tcp)
        .expect("an answer");
    assert_eq!(
        Message::from_vec(&whole)
            .expect("well formed")
            .answers
            .len(),
        99
    );
    assert_eq!(zone.counters.truncated, 1);
}

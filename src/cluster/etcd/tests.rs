//! The engine by etcd without an etcd: what the node hears of what the store is said to have.

use super::*;

fn settings() -> Settings {
    Settings {
        node: "n1".into(),
        cluster_id: "c".to_owned(),
        access: Access {
            endpoints: vec!["http://192.0.2.1:2379".to_owned()],
            credentials: None,
            ca: None,
            identity: None,
        },
        generation: 1,
    }
}

fn value(id: &str) -> KeyValue {
    let said = format!(
        "1 said 5.0.n2\n{{\"domain\":\"*\",\"servers\":[{{\"id\":\"{id}\",\"status\":\"up\",\
         \"addresses\":[{{\"ip\":\"192.0.2.1\",\"port\":5060,\"transport\":\"udp\"}}]}}]}}"
    );
    KeyValue {
        key: format!("/fanfare/c/servers/*/{id}"),
        value: said,
        mod_revision: 7,
    }
}

/// The ids of what the node was told, in order.
fn told(from: &mut mpsc::Receiver<FromCluster>) -> Vec<String> {
    let mut ids = Vec::new();
    while let Ok(FromCluster::Records(records)) = from.try_recv() {
        ids.extend(records.iter().map(|record| record.id().to_string()));
    }
    ids
}

#[test]
fn what_the_store_has_is_told_once_and_again_where_it_was_asked_for() {
    let settings = settings();
    let store = Arc::new(Store::new(&settings.access).expect("nothing is asked of it"));
    let keys = Keys::of(&settings.cluster_id);
    let (out, mut from) = mpsc::channel(8);
    let counters = Arc::default();
    let mut engine = Engine::new(&settings, (store, keys), &out, &counters);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        engine.read(vec![value("p1"), value("p2")]).await;
        assert_eq!(told(&mut from), ["p1", "p2"]);
        engine.read(vec![value("p1")]).await;
        assert!(told(&mut from).is_empty(), "it is known");
        // The node may have had no room for it when it came.
        engine.done(Done::Ask(Ok(Some(value("p1"))))).await;
        assert_eq!(told(&mut from), ["p1"]);
    });
}

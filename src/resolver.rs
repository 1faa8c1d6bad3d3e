//! Finds SIP servers by name (RFC 3263 4), with hickory-resolver. Knows no dialog.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::notifier::names::{Location, Target};
use crate::wire::Transport;

/// RFC 3261 19.1.2.
const DEFAULT_PORT: u16 = 5060;
/// At most this many addresses of one name are looked at.
const ADDRESSES_MOST: usize = 16;

/// A resolver that asks these name servers, or without any by the system's configuration.
pub fn open(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    match servers {
        [] => TokioResolver::builder_tokio()?.build(),
        servers => asking(servers),
    }
}

/// A resolver that asks these name servers, over UDP and, where an answer is cut, over TCP.
fn asking(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let servers = servers.iter().map(|server| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(at);
        NameServerConfig::new(server.ip(), true, ways.into())
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

/// Looks one target up. A name that leads nowhere has no addresses; that is no error.
pub async fn locate(resolver: &TokioResolver, target: &Target) -> Location {
    let mut found = Found {
        addresses: Vec::new(),
        until: None,
    };
    match (target.port, target.transport) {
        // RFC 3263 4.2: with a port, or as a numeric address, only A and AAAA are asked for.
        (Some(port), transport) => {
            found
                .hosts(
                    resolver,
                    &target.host,
                    port,
                    transport.unwrap_or(Transport::Udp),
                )
                .await;
        }
        (None, Some(transport)) => {
            found
                .service(resolver, &srv_name(&target.host, transport), transport)
                .await
        }
        (None, None) => found.by_naptr(resolver, &target.host).await,
    }
    if found.addresses.is_empty() && target.port.is_none() {
        // RFC 3263 4.2: without SRV records, the host itself at the default port.
        found
            .hosts(
                resolver,
                &target.host,
                DEFAULT_PORT,
                target.transport.unwrap_or(Transport::Udp),
            )
            .await;
    }
    let ttl_ms = found.until.map_or(0, |until| {
        until.saturating_duration_since(Instant::now()).as_millis() as u64
    });
    Location {
        addresses: found.addresses,
        ttl_ms,
    }
}

struct Found {
    addresses: Vec<(Transport, SocketAddr)>,
    /// When the first of the records used runs out.
    until: Option<Instant>,
}

impl Found {
    /// RFC 3263 4.1: the NAPTR records say which transports a domain prefers; without them SRV is asked for each.
    async fn by_naptr(&mut self, resolver: &TokioResolver, host: &str) {
        let mut services = Vec::new();
        if let Ok(lookup) = resolver.lookup(absolute(host), RecordType::NAPTR).await {
            self.limit(lookup.valid_until());
            for record in lookup.answers() {
                if let RData::NAPTR(naptr) = &record.data
                    && let Some(transport) = naptr_transport(&naptr.services)
                {
                    services.push((
                        naptr.order,
                        naptr.preference,
                        naptr.replacement.to_ascii(),
                        transport,
                    ));
                }
            }
        }
        services.sort();
        if services.is_empty() {
            let transports = [Transport::Udp, Transport::Tcp];
            services
                .extend(transports.map(|transport| (0, 0, srv_name(host, transport), transport)));
        }
        for (_, _, name, transport) in services {
            self.service(resolver, &name, transport).await;
        }
    }

    /// RFC 2782: lowest priority first; inside one, the heavier first.
    async fn service(&mut self, resolver: &TokioResolver, name: &str, transport: Transport) {
        let Ok(lookup) = resolver.lookup(absolute(name), RecordType::SRV).await else {
            return;
        };
        self.limit(lookup.valid_until());
        let mut records = Vec::new();
        for record in lookup.answers() {
            if let RData::SRV(srv) = &record.data {
                records.push((
                    srv.priority,
                    std::cmp::Reverse(srv.weight),
                    srv.target.to_ascii(),
                    srv.port,
                ));
            }
        }
        records.sort();
        for (_, _, host, port) in records {
            self.hosts(resolver, &host, port, transport).await;
        }
    }

    async fn hosts(
        &mut self,
        resolver: &TokioResolver,
        host: &str,
        port: u16,
        transport: Transport,
    ) {
        if self.addresses.len() >= ADDRESSES_MOST {
            return;
        }
        // A name that is in no zone but in the hosts file is asked for as it stands.
        let Ok(lookup) = resolver.lookup_ip(host).await else {
            return;
        };
        self.limit(lookup.valid_until());
        let room = ADDRESSES_MOST - self.addresses.len();
        self.addresses.extend(
            lookup
                .iter()
                .take(room)
                .map(|ip: IpAddr| (transport, SocketAddr::new(ip, port))),
        );
    }

    fn limit(&mut self, until: Instant) {
        self.until = Some(self.until.map_or(until, |former| former.min(until)));
    }
}

fn srv_name(host: &str, transport: Transport) -> String {
    match transport {
        Transport::Udp => format!("_sip._udp.{host}"),
        Transport::Tcp => format!("_sip._tcp.{host}"),
    }
}

/// Names of SIP are absolute: no search domain is tried.
fn absolute(name: &str) -> String {
    if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.")
    }
}

/// RFC 3263 4.1: `SIP+D2U` is UDP, `SIP+D2T` is TCP; the others we do not speak.
fn naptr_transport(services: &[u8]) -> Option<Transport> {
    if services.eq_ignore_ascii_case(b"SIP+D2U") {
        Some(Transport::Udp)
    } else if services.eq_ignore_ascii_case(b"SIP+D2T") {
        Some(Transport::Tcp)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naptr_services_name_the_transports_that_we_speak() {
        assert_eq!(naptr_transport(b"sip+d2u"), Some(Transport::Udp));
        assert_eq!(naptr_transport(b"SIP+D2T"), Some(Transport::Tcp));
        assert_eq!(naptr_transport(b"SIPS+D2T"), None);
    }
}

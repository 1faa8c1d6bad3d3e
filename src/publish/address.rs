//! A server's address as a flag writes it. Knows no flag.

use crate::info::Address;

const ALLOWED: &str = "allowed: IP:PORT/TRANSPORT[,host=NAME][,service=NAME] with transport udp, tcp, tls, ws or wss, \
    as 192.0.2.1:5060/udp";

/// Reads `192.0.2.1:5061/tls,host=p1.example.com,service=proxy`.
pub(super) fn parse(text: &str) -> Result<Address, &'static str> {
    read(text).ok_or(ALLOWED)
}

fn read(text: &str) -> Option<Address> {
    let mut fields = text.split(',');
    let (socket, transport) = fields.next()?.rsplit_once('/')?;
    let socket: std::net::SocketAddr = socket.parse().ok()?;
    let mut address = Address {
        ip: socket.ip(),
        port: Some(socket.port()).filter(|port| *port > 0)?,
        transport: transport.parse().ok()?,
        host: None,
        service: None,
    };
    for field in fields {
        let (name, value) = field.split_once('=')?;
        let place = match name {
            "host" => &mut address.host,
            "service" => &mut address.service,
            _ => return None,
        };
        if place.replace(value.into()).is_some() {
            return None;
        }
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::AddressTransport;

    #[test]
    fn an_address_has_ip_port_and_transport() {
        let address = parse("[2001:db8::1]:5061/tls,service=proxy,host=p1.example.com").unwrap();
        assert_eq!(address.ip.to_string(), "2001:db8::1");
        assert_eq!(
            (address.port, address.transport),
            (5061, AddressTransport::Tls)
        );
        assert_eq!(address.host.as_deref(), Some("p1.example.com"));
        assert_eq!(address.service.as_deref(), Some("proxy"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "192.0.2.1",
            "192.0.2.1:5060",
            "192.0.2.1/udp",
            "192.0.2.1:0/udp",
            "192.0.2.1:5060/sctp",
            "p1.example.com:5060/udp",
            "192.0.2.1:5060/udp,host",
            "192.0.2.1:5060/udp,port=1",
            "192.0.2.1:5060/udp,host=a,host=b",
        ] {
            assert_eq!(parse(text), Err(ALLOWED), "{text}");
        }
    }
}

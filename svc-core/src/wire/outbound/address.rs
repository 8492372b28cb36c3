//! Decides which addresses may be dialled, without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

/// Networks that outbound calls may reach; public addresses are always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Strict,
    /// Public addresses, loopback and private networks, for a developer's machine.
    Dev,
    /// Public addresses and private networks, but not loopback, for an operator's network in which the
    /// tenants' agents run.
    Saas,
}

/// Class of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A public address of the internet.
    Public,
    Loopback,
    /// RFC 1918, or fd00::/8, the part of RFC 4193's addresses that is in use.
    Private,
    /// Never dialled: metadata services, link-local, multicast, translation prefixes, documentation,
    /// reserved.
    Forbidden,
}

/// Returns whether `address` may be dialled in `mode`.
pub fn allows(mode: Mode, address: IpAddr) -> bool {
    match (classify(address), mode) {
        (Class::Public, Mode::Strict | Mode::Dev | Mode::Saas) => true,
        (Class::Private, Mode::Dev | Mode::Saas) => true,
        (Class::Loopback, Mode::Dev) => true,
        (Class::Private, Mode::Strict)
        | (Class::Loopback, Mode::Strict | Mode::Saas)
        | (Class::Forbidden, Mode::Strict | Mode::Dev | Mode::Saas) => false,
    }
}

/// Classifies an address. An IPv4-mapped IPv6 address is classified as its IPv4 address.
pub fn classify(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or_else(|| classify_v6(address), classify_v4),
    }
}

/// Addresses of cloud metadata services outside the link-local range.
const METADATA_V4: [Ipv4Addr; 1] = [Ipv4Addr::new(168, 63, 129, 16)];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
];

/// IPv4 networks that are never dialled, as (network, prefix length): multicast, and IANA's special-purpose
/// registry except loopback and private networks.
const FORBIDDEN_V4: [(Ipv4Addr, u32); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, 240/4 and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Parts of 2000::/3 that are never dialled: protocol assignments with Teredo, 6to4, documentation.
const FORBIDDEN_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn classify_v4(address: Ipv4Addr) -> Class {
    let inside = |(network, length): &(Ipv4Addr, u32)| {
        address.to_bits() >> (32 - length) == network.to_bits() >> (32 - length)
    };
    if METADATA_V4.contains(&address) || FORBIDDEN_V4.iter().any(inside) {
        Class::Forbidden
    } else if address.is_loopback() {
        Class::Loopback
    } else if address.is_private() {
        Class::Private
    } else {
        Class::Public
    }
}

/// Classifies an IPv6 address. Every address that is not global unicast, loopback or in fd00::/8 is
/// forbidden. That covers ::/96, NAT64's 64:ff9b::/96, fc00::/8, fe80::/10, fec0::/10, ff00::/8 and future
/// assignments.
fn classify_v6(address: Ipv6Addr) -> Class {
    let inside = |(network, length): &(Ipv6Addr, u32)| {
        address.to_bits() >> (128 - length) == network.to_bits() >> (128 - length)
    };
    if METADATA_V6.contains(&address) || FORBIDDEN_V6.iter().any(inside) {
        Class::Forbidden
    } else if address.is_loopback() {
        Class::Loopback
    } else if address.octets()[0] == 0xfd {
        Class::Private
    } else if inside(&(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)) {
        Class::Public
    } else {
        Class::Forbidden
    }
}

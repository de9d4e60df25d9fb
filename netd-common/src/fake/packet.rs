//! A packet in memory.

use std::vec::Vec;

use crate::{
    env::{ChecksumChange, Packet},
    family::{Family, V4, V6},
    nat::siit,
    net::{Be16, IfIndex},
    verdict::DropReason,
    wire::{crc32c, csum, headers::L3},
};

/// A frame with what the kernel knows about it.
#[derive(Clone, Debug)]
pub struct FakePacket {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The device it arrived on, or leaves by.
    pub ifindex: IfIndex,
    /// The device by which it entered the host.
    pub ingress: IfIndex,
    /// Payload of each segment of a GSO packet.
    pub segment: u32,
    /// Its mark.
    pub mark: u32,
    /// Whether its metadata has a VLAN tag.
    pub vlan: bool,
    /// What programs have written beside it.
    pub tag: u32,
}

impl FakePacket {
    /// Wraps a frame that arrived on a device.
    pub fn new(bytes: Vec<u8>, ifindex: IfIndex) -> Self {
        Self { bytes, ifindex, ingress: ifindex, segment: 0, mark: 0, vlan: false, tag: 0 }
    }
}

impl Packet for FakePacket {
    fn load<const N: usize>(&self, offset: u32) -> Result<[u8; N], DropReason> {
        let bytes = self.bytes.get(offset as usize..offset as usize + N).ok_or(DropReason::Malformed)?;
        bytes.try_into().map_err(|_| DropReason::Malformed)
    }
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        let place = self.bytes.get_mut(offset as usize..offset as usize + N).ok_or(DropReason::Malformed)?;
        place.copy_from_slice(&bytes);
        Ok(())
    }
    fn renew<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Result<(), DropReason> {
        self.store(offset, bytes)
    }
    fn update_checksum(&mut self, offset: u32, delta: u32, change: ChecksumChange) -> Result<(), DropReason> {
        let old = Be16::from_wire(self.load::<2>(offset)?);
        if change.zero_is_none && old == Be16::ZERO {
            return Ok(());
        }
        let new = csum::update(old.raw(), delta);
        let new = if change.zero_is_none && new == 0 { u16::MAX } else { new };
        self.store(offset, new.to_ne_bytes())
    }
    fn crc32c_change(word: u32, bytes: u32) -> u32 {
        crc32c::change(word, bytes)
    }
    fn truncate(&mut self, length: u32) -> Result<(), DropReason> {
        self.bytes.truncate(length as usize);
        Ok(())
    }
    fn exchange_header(&mut self, ethertype: Be16) -> Result<(), DropReason> {
        let (old, new) =
            if ethertype == V6::ETHERTYPE { (V4::HEADER, V6::HEADER) } else { (V6::HEADER, V4::HEADER) };
        let end = (L3 + old) as usize;
        if self.bytes.len() < end {
            return Err(DropReason::KernelRefused);
        }
        self.bytes.splice(L3 as usize..end, std::vec![0; new as usize]);
        Ok(())
    }
    fn stand_for_ipv4(&mut self) -> Result<(), DropReason> {
        siit::to_v4(self)
    }
    fn ifindex(&self) -> IfIndex {
        self.ifindex
    }
    fn ingress_ifindex(&self) -> IfIndex {
        self.ingress
    }
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn segment_payload(&self) -> u32 {
        self.segment
    }
    fn mark(&self) -> u32 {
        self.mark
    }
    fn has_vlan_tag(&self) -> bool {
        self.vlan
    }
    fn tag(&self) -> u32 {
        self.tag
    }
}

//! netd's eBPF programs: entry points that translate between the kernel and `netd_common::hook`. They do not think.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod bare;
mod env;
mod fib;
mod guard;
mod hold;
mod input;
mod loopback;
mod maps;
mod monitor;
mod names;
mod netkit;
mod parts;
mod report;
mod skb;
mod sock;
mod socket;
mod tc;

/// The verifier rejects a program in which this can be reached; an assumption that it can't would delete bounds checks instead.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_redirect_neigh` and others are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

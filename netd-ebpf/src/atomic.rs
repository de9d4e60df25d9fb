//! Words that CPUs exchange. Rust's atomics lack exchange and addition for this target; the machine has both since kernel 5.12.

use core::arch::asm;

/// An aligned word in a map. Every operation is a full barrier.
#[derive(Clone, Copy)]
pub struct Word(*mut u32);

impl Word {
    /// Wraps a word.
    ///
    /// # Safety
    /// It lies in a map's value that stays valid until the program returns, and programs touch it by this type alone.
    #[inline(always)]
    pub unsafe fn new(word: *mut u32) -> Self {
        Self(word)
    }

    /// Puts a number in, and returns the one that was there.
    #[inline(always)]
    pub fn swap(self, mut number: u32) -> u32 {
        // SAFETY: the promise of `new`.
        unsafe {
            asm!("{0} = xchg32_32({1} + 0, {0})", inout(wreg) number, in(reg) self.0, options(nostack))
        };
        number
    }

    /// Adds a number, and returns the sum before.
    #[inline(always)]
    pub fn add(self, mut number: u32) -> u32 {
        // SAFETY: the promise of `new`.
        unsafe {
            asm!("{0} = atomic_fetch_add((u32 *)({1} + 0), {0})", inout(wreg) number, in(reg) self.0, options(nostack));
        }
        number
    }

    /// Reads it.
    #[inline(always)]
    pub fn get(self) -> u32 {
        // SAFETY: the promise of `new`.
        unsafe { self.0.read_volatile() }
    }
}

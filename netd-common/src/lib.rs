//! Vocabulary.
#![no_std]

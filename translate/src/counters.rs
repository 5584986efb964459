//! What a processor did, counted where it is not on a fast path.

use std::fmt;

/// Counts of events since the processor was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks executed by the interpreter.
    pub interpreted: u64,
    /// Blocks executed that were not kept, since their code is rewritten again and again; they were interpreted, too.
    pub volatile: u64,
    /// How often the dispatcher entered compiled code.
    pub entered: u64,
    /// How often a block was not found in the jump cache.
    pub jump_cache_misses: u64,
    /// How often it was not what the jump cache's entry held before it was emptied, either.
    pub hashed: u64,
    /// Blocks and regions whose compiled code was kept from an earlier run.
    pub restored: u64,
    /// Blocks lifted.
    pub lifted: u64,
    /// Blocks compiled by the baseline compiler.
    pub baseline: u64,
    /// Regions asked for.
    pub regions_requested: u64,
    /// Entries of the soft TLB filled.
    pub tlb_fills: u64,
    /// Flushes of all of address translation.
    pub flushes: u64,
    /// Flushes that keep what is global.
    pub address_space_flushes: u64,
    /// Flushes of a page.
    pub page_flushes: u64,
    /// Accesses that devices answered.
    pub device_accesses: u64,
    /// Writes to translated code.
    pub code_writes: u64,
    /// Exceptions raised.
    pub exceptions: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters {
            interpreted,
            volatile,
            entered,
            jump_cache_misses,
            hashed,
            restored,
            lifted,
            baseline,
            regions_requested,
            tlb_fills,
            flushes,
            address_space_flushes,
            page_flushes,
            device_accesses,
            code_writes,
            exceptions,
        } = self;
        writeln!(
            f,
            "blocks: {} executions interpreted, {volatile} of them not kept, {entered} entries into compiled code",
            interpreted + volatile
        )?;
        writeln!(f, "look-ups: {jump_cache_misses} missed the jump cache, {hashed} of them went to the hash table")?;
        writeln!(
            f,
            "translation: {lifted} blocks lifted, {restored} kept from earlier runs, {baseline} by the baseline compiler, {regions_requested} requests for regions"
        )?;
        writeln!(
            f,
            "memory: {tlb_fills} TLB fills, {flushes} flushes, {address_space_flushes} of an address space, {page_flushes} of a page"
        )?;
        write!(f, "besides: {device_accesses} device accesses, {code_writes} writes to code, {exceptions} exceptions")
    }
}

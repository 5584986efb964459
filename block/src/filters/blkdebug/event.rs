//! What happens in a disk that rules can be about.

/// Declares the events with their names.
macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal,)*) => {
        /// Something that a format or a filter does with the node below it: QEMU's `BlkdebugEvent`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum BlkdebugEvent {
            $($(#[$doc])* $event,)*
        }

        impl BlkdebugEvent {
            /// The events, by name.
            pub const ALL: &[(&str, BlkdebugEvent)] = &[$(($name, BlkdebugEvent::$event),)*];
        }
    };
}

events! {
    /// An entry of the active L1 table is written.
    L1Update = "l1_update",
    /// Room is taken for a longer L1 table.
    L1GrowAllocTable = "l1_grow_alloc_table",
    /// A longer L1 table is written.
    L1GrowWriteTable = "l1_grow_write_table",
    /// The header is made to name a longer L1 table.
    L1GrowActivateTable = "l1_grow_activate_table",
    /// A part of an L2 table is read.
    L2Load = "l2_load",
    /// A part of an L2 table is written.
    L2Update = "l2_update",
    /// An L2 entry for compressed data is changed.
    L2UpdateCompressed = "l2_update_compressed",
    /// An L2 table that is shared is read, to be copied.
    L2AllocCowRead = "l2_alloc_cow_read",
    /// A new L2 table is made.
    L2AllocWrite = "l2_alloc_write",
    /// Data is read.
    ReadAio = "read_aio",
    /// Data is read from the backing file.
    ReadBackingAio = "read_backing_aio",
    /// Compressed data is read.
    ReadCompressed = "read_compressed",
    /// Data is written.
    WriteAio = "write_aio",
    /// Compressed data is written.
    WriteCompressed = "write_compressed",
    /// The state of a machine is read.
    VmstateLoad = "vmstate_load",
    /// The state of a machine is written.
    VmstateSave = "vmstate_save",
    /// Data around a write is read, to be copied.
    CowRead = "cow_read",
    /// Data around a write is written.
    CowWrite = "cow_write",
    /// The refcount table is read.
    ReftableLoad = "reftable_load",
    /// The refcount table is to become longer.
    ReftableGrow = "reftable_grow",
    /// An entry of the refcount table is written.
    ReftableUpdate = "reftable_update",
    /// A part of a refcount block is read.
    RefblockLoad = "refblock_load",
    /// A refcount block is written.
    RefblockUpdate = "refblock_update",
    /// A part of a refcount block is written.
    RefblockUpdatePart = "refblock_update_part",
    /// A refcount block is to be made.
    RefblockAlloc = "refblock_alloc",
    /// The refcount table is made to name a new block.
    RefblockAllocHookup = "refblock_alloc_hookup",
    /// A new refcount block is written.
    RefblockAllocWrite = "refblock_alloc_write",
    /// The blocks for a longer refcount table are written.
    RefblockAllocWriteBlocks = "refblock_alloc_write_blocks",
    /// A longer refcount table is written.
    RefblockAllocWriteTable = "refblock_alloc_write_table",
    /// The header is made to name a longer refcount table.
    RefblockAllocSwitchTable = "refblock_alloc_switch_table",
    /// Clusters are taken.
    ClusterAlloc = "cluster_alloc",
    /// Room for less than a cluster is taken.
    ClusterAllocBytes = "cluster_alloc_bytes",
    /// Clusters are given back.
    ClusterFree = "cluster_free",
    /// What is in memory is to be written.
    FlushToOs = "flush_to_os",
    /// What was written is to be put on stable storage.
    FlushToDisk = "flush_to_disk",
    /// The first part of what a write shares with others is read.
    PwritevRmwHead = "pwritev_rmw_head",
    /// It was read.
    PwritevRmwAfterHead = "pwritev_rmw_after_head",
    /// The last part of what a write shares with others is read.
    PwritevRmwTail = "pwritev_rmw_tail",
    /// It was read.
    PwritevRmwAfterTail = "pwritev_rmw_after_tail",
    /// Bytes are written.
    Pwritev = "pwritev",
    /// Bytes are made zero.
    PwritevZero = "pwritev_zero",
    /// That is done.
    PwritevDone = "pwritev_done",
    /// An image is to be emptied.
    EmptyImagePrepare = "empty_image_prepare",
    /// A shorter L1 table is written.
    L1ShrinkWriteTable = "l1_shrink_write_table",
    /// L2 tables that a shorter L1 table does not name are given back.
    L1ShrinkFreeL2Clusters = "l1_shrink_free_l2_clusters",
    /// What was read from behind an image is written into it.
    CorWrite = "cor_write",
    /// Clusters are taken for what is made ready before it is written.
    ClusterAllocSpace = "cluster_alloc_space",
    /// Nothing happens: it is raised once, when the disk is opened.
    None = "none",
}

impl BlkdebugEvent {
    /// The event with a name.
    pub fn named(name: &str) -> Option<BlkdebugEvent> {
        BlkdebugEvent::ALL.iter().find(|(known, _)| *known == name).map(|(_, event)| *event)
    }
}

//! What checking an image tells.

/// What a check does about what it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// Gives back what is counted as used and is not.
    Leaks,
    /// Makes everything consistent.
    All,
}

impl Repair {
    /// Leaked clusters are given back.
    pub fn includes_leaks(self) -> bool {
        self != Repair::Nothing
    }

    /// What is wrong is made right.
    pub fn includes_errors(self) -> bool {
        self == Repair::All
    }
}

/// Told of each problem that a check finds, in a line.
pub type Report<'a> = &'a mut (dyn FnMut(&str) + Send);

/// What a check found, and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// Metadata that is wrong: data is lost, or will be by writing.
    pub corruptions: u64,
    /// Clusters that are counted as used more often than they are: room is lost, no data.
    pub leaks: u64,
    /// Parts of the check that could not be done.
    pub check_errors: u64,
    /// Corruptions that were found and repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were found and repaired.
    pub leaks_fixed: u64,
    /// Bytes of the file up to the end of the last cluster that is used, or counted as used.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Those that have a place in the file.
    pub allocated_clusters: u64,
    /// Those whose place does not follow that of the one before.
    pub fragmented_clusters: u64,
    /// Those that are compressed.
    pub compressed_clusters: u64,
}

impl CheckResult {
    /// Nothing is wrong, except that room may be lost.
    pub fn is_usable(&self) -> bool {
        self.corruptions == 0 && self.check_errors == 0
    }
}

//! Memory that O_DIRECT takes: whole blocks at the beginning of a block, in huge pages where the system has them.
//!
//! The kernel pins each page of such memory for each read and write, and hands them to the disk one by one; of a huge page it does
//! so once.

use std::io;

use memmap2::{Advice, MmapMut};

/// What O_DIRECT needs of position, length and memory, on every file system that we know of.
pub const BLOCK_BYTES: usize = 4096;

/// Whole blocks of memory.
#[derive(Debug)]
pub struct AlignedBuffer(MmapMut);

impl AlignedBuffer {
    /// So many bytes, rounded up to whole blocks, all zero. The system gives the memory when it is first touched.
    ///
    /// # Errors
    /// When there is no such memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes.next_multiple_of(BLOCK_BYTES))?;
        // A wish: small pages do as well.
        let _ = memory.advise(Advice::HugePage);
        Ok(Self(memory))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes, to be filled.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

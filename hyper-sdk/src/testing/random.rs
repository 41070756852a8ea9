//! Random values from a seed.

/// A random number generator (xorshift64*), only for tests: it is predictable.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed. Similar seeds give different numbers.
    pub fn new(seed: u64) -> Self {
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The bias does not matter for tests.
        (self.number() % end.max(1) as u64) as usize
    }

    /// `true` with the probability 1 in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of some values; `None` when there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// Random bytes, which do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers() {
        assert_eq!(Random::new(1).bytes(100), Random::new(1).bytes(100));
        assert_ne!(Random::new(1).bytes(100), Random::new(2).bytes(100));
        assert_ne!(Random::new(0).number(), 0);
        let mut random = Random::new(7);
        assert!((0..1000).all(|_| random.below(3) < 3) && random.below(0) == 0);
        assert_eq!(random.pick::<u8>(&[]), None);
        let seen: std::collections::BTreeSet<_> =
            (0..100).map(|_| *random.pick(&[1, 2, 3]).unwrap()).collect();
        assert_eq!(seen.len(), 3);
    }
}

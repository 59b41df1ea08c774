//! Chance from a seed.

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
        for _ in 0..8 {
            dice.below(1);
        }
        dice
    }

    /// The next, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    /// Whether it is one of `part` in a hundred.
    pub fn percent(&mut self, part: u64) -> bool {
        self.below(100) < part
    }

    pub fn choose<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        match among.len() as u64 {
            0 => None,
            len => among.get(self.below(len) as usize),
        }
    }
}

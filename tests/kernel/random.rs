//! Random numbers from a seed.

/// `SplitMix64`: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// The seed that a variable of the environment names, or another one each time; it is printed, so that a run
    /// that failed can be repeated.
    pub fn from_environment(variable: &str) -> Self {
        let seed = match std::env::var(variable) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")),
            Err(_) => getrandom::u64().unwrap(),
        };
        eprintln!("{variable}={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

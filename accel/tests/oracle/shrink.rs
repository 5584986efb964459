//! Makes a program that shows a difference as small as it can be.

use crate::program::{Item, Program};

/// The smallest program found for which `differs` still holds.
pub(crate) fn shrink(program: &Program, mut differs: impl FnMut(&Program) -> bool) -> Program {
    let mut best = program.clone();
    // Halves, quarters and so on first, then single items, until no more can go.
    let mut chunk = best.items.len() / 2;
    while chunk > 0 {
        let mut removed = false;
        let mut start = 0;
        while start < best.items.len() {
            let mut candidate = best.clone();
            let end = (start + chunk).min(candidate.items.len());
            candidate.items.drain(start..end);
            if differs(&candidate) {
                best = candidate;
                removed = true;
            } else {
                start += chunk;
            }
        }
        if chunk > 1 {
            chunk /= 2;
        } else if !removed {
            break;
        }
    }
    for index in 0..best.items.len() {
        let mut candidate = best.clone();
        candidate.items[index].setup.clear();
        if differs(&candidate) {
            best = candidate;
        }
        let mut candidate = best.clone();
        candidate.items[index] = Item { setup: best.items[index].setup.clone(), ..Item::default() };
        if differs(&candidate) {
            best = candidate;
        }
    }
    best
}

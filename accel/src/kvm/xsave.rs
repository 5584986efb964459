//! The XSAVE area in its standard form, as KVM exchanges it (SDM volume 1, 13.4).

use kvm_bindings::{CpuId, kvm_xsave};

use crate::Error;
use crate::state::x86_64::{Float80, Fpu};

const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const HEADER: usize = 512;
const YMM: usize = 576;
const AREA: usize = 4096;

/// x87, SSE and AVX, which [`Fpu`] holds by name.
const NAMED: u64 = 0b111;

/// Where the host puts the components from number 3 on.
pub(super) struct Layout {
    components: Vec<Component>,
    /// AVX is among the host's components.
    avx: bool,
}

struct Component {
    number: u32,
    offset: usize,
    length: usize,
}

impl Layout {
    /// Reads CPUID leaf 0DH.
    pub(super) fn from_cpuid(cpuid: &CpuId) -> Layout {
        let user = |number: u32| {
            let find = |index| cpuid.as_slice().iter().find(|entry| entry.function == 0xd && entry.index == index);
            let enabled = find(0).map_or(0, |entry| u64::from(entry.eax) | u64::from(entry.edx) << 32);
            // Bit 0 of ECX marks supervisor components, which are not in the standard form.
            find(number).filter(|entry| enabled >> number & 1 != 0 && entry.ecx & 1 == 0)
        };
        let components = (3..63)
            .filter_map(|number| {
                let entry = user(number)?;
                let (offset, length) = (entry.ebx as usize, entry.eax as usize);
                let fits = offset >= YMM && length > 0 && offset.checked_add(length)? <= AREA;
                fits.then_some(Component { number, offset, length })
            })
            .collect();
        Layout { components, avx: user(2).is_some() }
    }

    /// Reads an area that KVM wrote.
    pub(super) fn decode(&self, area: &kvm_xsave, xcr0: u64) -> Fpu {
        let bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let in_use = u64_at(&bytes, HEADER);
        let mut fpu = Fpu {
            fcw: u16_at(&bytes, 0),
            fsw: u16_at(&bytes, 2),
            ftw: bytes[4],
            fop: u16_at(&bytes, 6),
            fip: u64_at(&bytes, 8),
            fdp: u64_at(&bytes, 16),
            mxcsr: u64_at(&bytes, MXCSR) as u32,
            xcr0,
            ..Fpu::default()
        };
        for (index, st) in fpu.st.iter_mut().enumerate() {
            let at = ST + 16 * index;
            *st = Float80 { significand: u64_at(&bytes, at), sign_exponent: u16_at(&bytes, at + 8) };
        }
        for (index, xmm) in fpu.xmm.iter_mut().enumerate() {
            *xmm = [u64_at(&bytes, XMM + 16 * index), u64_at(&bytes, XMM + 16 * index + 8)];
        }
        if self.avx && in_use & 0b100 != 0 {
            for (index, ymm) in fpu.ymm_high.iter_mut().enumerate() {
                *ymm = [u64_at(&bytes, YMM + 16 * index), u64_at(&bytes, YMM + 16 * index + 8)];
            }
        }
        // KVM writes PKRU at times for a guest that has no such register, and a nested KVM may add what its host uses. No guest
        // has something in a component that it did not enable, unless it disabled it again.
        let of_guest = in_use & xcr0;
        for component in self.components.iter().filter(|component| of_guest >> component.number & 1 != 0) {
            let content = bytes[component.offset..component.offset + component.length].to_vec();
            fpu.components.insert(component.number, content);
        }
        fpu
    }

    /// Writes an area for KVM to read.
    pub(super) fn encode(&self, fpu: &Fpu) -> Result<kvm_xsave, Error> {
        let mut bytes = vec![0; AREA];
        let mut put = |at: usize, content: &[u8]| bytes[at..at + content.len()].copy_from_slice(content);
        put(0, &fpu.fcw.to_le_bytes());
        put(2, &fpu.fsw.to_le_bytes());
        put(4, &[fpu.ftw]);
        put(6, &fpu.fop.to_le_bytes());
        put(8, &fpu.fip.to_le_bytes());
        put(16, &fpu.fdp.to_le_bytes());
        put(MXCSR, &fpu.mxcsr.to_le_bytes());
        put(MXCSR + 4, &0xffff_u32.to_le_bytes());
        for (index, st) in fpu.st.iter().enumerate() {
            put(ST + 16 * index, &st.significand.to_le_bytes());
            put(ST + 16 * index + 8, &st.sign_exponent.to_le_bytes());
        }
        let halves = |at: usize, index: usize, half: usize| at + 16 * index + 8 * half;
        for (index, xmm) in fpu.xmm.iter().enumerate() {
            put(halves(XMM, index, 0), &xmm[0].to_le_bytes());
            put(halves(XMM, index, 1), &xmm[1].to_le_bytes());
        }
        let mut in_use = 0b11_u64;
        if self.avx {
            in_use |= 0b100;
            for (index, ymm) in fpu.ymm_high.iter().enumerate() {
                put(halves(YMM, index, 0), &ymm[0].to_le_bytes());
                put(halves(YMM, index, 1), &ymm[1].to_le_bytes());
            }
        } else if fpu.ymm_high.iter().any(|ymm| *ymm != [0, 0]) {
            return Err(Error::State("it uses AVX, which this host lacks".into()));
        }
        for (number, content) in &fpu.components {
            let component = self.components.iter().find(|component| component.number == *number);
            match component {
                Some(component) if component.length == content.len() => put(component.offset, content),
                Some(component) => {
                    return Err(Error::State(format!(
                        "XSAVE component {number} has {} bytes, and {} on this host",
                        content.len(),
                        component.length
                    )));
                }
                None => return Err(Error::State(format!("it uses XSAVE component {number}, which this host lacks"))),
            }
            in_use |= 1 << number;
        }
        debug_assert!(in_use & NAMED != 0);
        put(HEADER, &in_use.to_le_bytes());
        let mut area = kvm_xsave::default();
        for (word, content) in area.region.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([content[0], content[1], content[2], content[3]]);
        }
        Ok(area)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_the_host_lacks_is_named() {
        let layout = Layout { components: vec![Component { number: 9, offset: 2688, length: 8 }], avx: true };
        let mut fpu =
            Fpu { fcw: 0x27f, fsw: 0x3800, ftw: 0x80, fop: 0x7ff, mxcsr: 0x1f81, xcr0: 0x207, ..Fpu::default() };
        fpu.st[0] = Float80 { significand: 1 << 63, sign_exponent: 0x3fff };
        fpu.xmm[15] = [1, 2];
        fpu.ymm_high[15] = [3, 4];
        fpu.components.insert(9, vec![7; 8]);
        assert_eq!(layout.decode(&layout.encode(&fpu).unwrap(), 0x207), fpu);
        assert!(layout.decode(&layout.encode(&fpu).unwrap(), 7).components.is_empty());
        fpu.components.insert(5, vec![0; 64]);
        let error = layout.encode(&fpu).unwrap_err().to_string();
        assert!(error.contains("component 5"), "{error}");
    }
}

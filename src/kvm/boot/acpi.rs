//! The ACPI tables: processors, interrupt controllers, virtio-mmio devices, and the ports to power off and reset.
//!
//! They describe a hardware-reduced platform (ACPI 6.5, section 4.1): there is no legacy timer and no SCI. The sleep and reset
//! registers are those of `kvm::power`.
#![forbid(unsafe_code)]

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use super::layout::{
    ACPI, BUTTON_GSI, IO_APIC, LOCAL_APIC, RESET, RESET_VALUE, SERIAL, SERIAL_GSI, SLEEP_CONTROL,
    SLEEP_STATUS, SLEEP_TYPE_OFF,
};
use super::{MmioWindow, Platform, as_u64};

#[cfg(test)]
mod tests;

const OEM_ID: [u8; 6] = *b"QCTX  ";
const OEM_TABLE_ID: [u8; 8] = *b"QCONTEXT";
const OEM_REVISION: u32 = 1;

/// The legacy parts that are missing (FADT, "IA-PC Boot Architecture Flags"): VGA, message-signalled interrupts (there is no PCI),
/// and the real-time clock.
const NO_VGA: u16 = 1 << 2;
const NO_MSI: u16 = 1 << 3;
const NO_RTC: u16 = 1 << 5;

/// The alignment of each table.
const ALIGNMENT: usize = 16;

/// All tables, to be written to [`ACPI`].
#[derive(Debug)]
pub(crate) struct Tables {
    /// The root pointer first.
    pub(crate) bytes: Vec<u8>,
}

impl Tables {
    /// The tables of a machine.
    pub(crate) fn new(platform: &Platform) -> Tables {
        // The root pointer comes first, but contains the address of the XSDT, which comes last. So it is filled in at the end.
        let mut tables = Tables {
            bytes: vec![0; Rsdp::len()],
        };
        let dsdt = tables.add(&dsdt(platform));
        let entries = [tables.add(&fadt(dsdt)), tables.add(&madt(platform.cpus))];
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        for entry in entries {
            xsdt.add_entry(entry);
        }
        let root = Rsdp::new(OEM_ID, tables.add(&xsdt));
        let mut bytes = Vec::new();
        root.to_aml_bytes(&mut bytes);
        tables.bytes[..bytes.len()].copy_from_slice(&bytes);
        tables
    }

    /// Appends a table, and answers its guest physical address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        table.to_aml_bytes(&mut self.bytes);
        ACPI + as_u64(start)
    }
}

fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Neither button is a fixed register.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_MSI | NO_RTC).into();
    fadt.reset_reg = port(RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL);
    fadt.sleep_status_reg = port(SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let controller = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, controller);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    // The I/O APIC's id follows those of the processors.
    madt.add_structure(IoApic::new(cpus, IO_APIC, 0));
    madt
}

fn dsdt(platform: &Platform) -> Sdt {
    const HEADER: u32 = 36;
    let mut body = Vec::new();
    if platform.serial {
        add_serial(&mut body);
    }
    for (index, window) in platform.virtio.iter().enumerate() {
        add_virtio(index, *window, &mut body);
    }
    add_button(&mut body);
    // \_S5: the sleep type that powers off.
    let off = aml::Package::new(vec![&SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt
}

/// A 16550 at the ports of COM1.
fn add_serial(body: &mut Vec<u8>) {
    let ports = aml::IO::new(SERIAL, SERIAL, 1, 8);
    let id = aml::EISAName::new("PNP0501");
    let line = pulsed(SERIAL_GSI);
    add_device("COM1", &id, 0, &[&ports, &line], &[], body);
}

/// A virtio-mmio device: its registers and its interrupt line.
fn add_virtio(index: usize, window: MmioWindow, body: &mut Vec<u8>) {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let registers = aml::Memory32Fixed::new(true, low(window.address), low(window.length));
    let name = format!("VM{index:02X}");
    let resources: [&dyn Aml; 2] = [&registers, &pulsed(window.gsi)];
    add_device(&name, &"LNRO0005", index, &resources, &[], body);
}

/// The power button, and the generic event device that notifies it when its interrupt comes (ACPI 6.5, section 5.6.9).
fn add_button(body: &mut Vec<u8>) {
    let button = aml::Path::new("\\_SB_.PWRB");
    // 0x80: the button was pressed.
    let notify = aml::Notify::new(&button, &0x80u8);
    let event = aml::Method::new("_EVT".into(), 1, true, vec![&notify]);
    add_device("PWRB", &aml::EISAName::new("PNP0C0C"), 0, &[], &[], body);
    let line = pulsed(BUTTON_GSI);
    add_device("GED0", &"ACPI0013", 0, &[&line], &[&event], body);
}

/// An edge-triggered, active-high interrupt.
fn pulsed(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

/// `Scope (_SB) { Device (name) { _HID, _UID, _CRS, ... } }`
fn add_device(
    name: &str,
    id: &dyn Aml,
    number: usize,
    resources: &[&dyn Aml],
    more: &[&dyn Aml],
    body: &mut Vec<u8>,
) {
    let list = aml::ResourceTemplate::new(resources.to_vec());
    let id = aml::Name::new("_HID".into(), id);
    let number = aml::Name::new("_UID".into(), &number);
    let list = aml::Name::new("_CRS".into(), &list);
    let mut children: Vec<&dyn Aml> = vec![&id, &number];
    if !resources.is_empty() {
        children.push(&list);
    }
    children.extend(more);
    let device = aml::Device::new(name.into(), children);
    aml::Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(body);
}

//! The chart for the README: per workload, every peer's rate relative to `raw`, as SVG written by hand.

use std::fmt::Write;

use load::Cell;

use crate::results::Results;
use crate::table::thousands;

/// Draws the cells of [`SHOWN`] that were measured.
pub(crate) fn draw(results: &Results) -> String {
    let peers: Vec<&str> = ORDER.iter().map(|(peer, _)| *peer).filter(|peer| results.peers().contains(peer)).collect();
    let cells: Vec<Cell> =
        results.cells.iter().filter(|cell| SHOWN.contains(&cell.to_string().as_str())).copied().collect();
    let groups: Vec<Group> = cells.iter().filter_map(|cell| Group::new(results, *cell, &peers)).collect();

    let height = TOP + groups.iter().map(Group::height).sum::<u32>() + BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"30\" font-size=\"17\" font-weight=\"600\" fill=\"#1f2328\">\
         Calls per second, relative to a hand-written loop (raw)</text>\n\
         <text x=\"{MARGIN}\" y=\"50\" fill=\"#59636e\">{}</text>\n",
        subtitle(results)
    );
    out += &grid(height);
    let mut y = TOP;
    for group in &groups {
        out += &group.draw(y);
        y += group.height();
    }
    out + "</svg>\n"
}

fn subtitle(results: &Results) -> String {
    let place = if results.mode == "same" {
        "client and server on one CPU"
    } else {
        "client and server on a CPU each"
    };
    format!(
        "{place}, TCP loopback, median of {} rounds of {} s",
        results.rounds, results.seconds
    )
}

/// Vertical lines at every quarter of raw.
fn grid(height: u32) -> String {
    let mut out = String::new();
    for percent in [0, 25, 50, 75, 100] {
        let x = LEFT + FULL * percent / 100;
        let (top, bottom) = (TOP - 8, height - BOTTOM);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#d1d9e0\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#59636e\" font-size=\"11\">{percent} %</text>",
            bottom + 16
        );
    }
    out
}

/// The bars of one cell.
struct Group {
    title: String,
    bars: Vec<Bar>,
}

struct Bar {
    peer: &'static str,
    colour: &'static str,
    per_second: f64,
    relative: f64,
}

impl Group {
    fn new(results: &Results, cell: Cell, peers: &[&str]) -> Option<Self> {
        let raw = results.median_of(cell, "raw", |figures| figures.per_second).filter(|rate| *rate > 0.0)?;
        let bars = ORDER.iter().filter(|(peer, _)| peers.contains(peer)).filter_map(|(peer, colour)| {
            let per_second = results.median_of(cell, peer, |figures| figures.per_second)?;
            Some(Bar {
                peer,
                colour,
                per_second,
                relative: per_second / raw,
            })
        });
        Some(Self {
            title: cell.to_string(),
            bars: bars.collect(),
        })
    }

    fn height(&self) -> u32 {
        GROUP_HEAD + self.bars.len() as u32 * PITCH + GROUP_GAP
    }

    fn draw(&self, top: u32) -> String {
        let mut out = format!(
            "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"600\" fill=\"#1f2328\">{} in flight</text>\n",
            top + 14,
            self.title
        );
        for (index, bar) in (0..).zip(&self.bars) {
            out += &bar.draw(top + GROUP_HEAD + index * PITCH);
        }
        out
    }
}

impl Bar {
    fn draw(&self, top: u32) -> String {
        let Self {
            peer,
            colour,
            per_second,
            relative,
        } = self;
        let width = (relative.min(RELATIVE_MAX) * f64::from(FULL)).max(1.0);
        let (text_x, text_y) = (f64::from(LEFT) + width + 6.0, top + 13);
        let percent = relative * 100.0;
        let digits = usize::from(percent < 9.95);
        let label = format!("{} ({percent:.digits$} %)", thousands(*per_second));
        format!(
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\" fill=\"#1f2328\">{peer}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{text_x:.1}\" y=\"{text_y}\" fill=\"#59636e\" font-size=\"12\">{label}</text>\n",
            LEFT - 8
        )
    }
}

/// Bars in this order, with their colours: the framework under test stands out, the limit is grey.
const ORDER: [(&str, &str); 9] = [
    ("raw", "#8c959f"),
    ("raw-named", "#afb8c1"),
    ("sinew", "#0969da"),
    ("sinew-named", "#54aeff"),
    ("sinew-tls", "#8250df"),
    ("tarpc", "#d4a72c"),
    ("tonic", "#bf8700"),
    ("volo-thrift", "#c69026"),
    ("capnp", "#9a6700"),
];
/// The cells that tell most: latency, throughput, structs, bodies, streams.
const SHOWN: [&str; 7] = [
    "echo32 1",
    "echo32 64",
    "user 64",
    "blob64k 1",
    "blob1m 1",
    "stream 1",
    "pingpong 1",
];

const WIDTH: u32 = 820;
const MARGIN: u32 = 20;
/// Where bars begin, and the length of one as fast as raw.
const LEFT: u32 = 130;
const FULL: u32 = 480;
/// Longer bars are cut, and their label tells.
const RELATIVE_MAX: f64 = 1.15;
const TOP: u32 = 76;
const BOTTOM: u32 = 30;
const GROUP_HEAD: u32 = 22;
const GROUP_GAP: u32 = 14;
const BAR: u32 = 16;
const PITCH: u32 = 20;

//! The frame that every page has: heading, style, machine and command. A page needs no other file.

use super::Machine;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 940px; margin: 2rem auto; padding: 0 1rem;
       color: #1c2329; background: #ffffff; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p.note { margin: .2rem 0 .6rem; opacity: .75; font-size: .9rem; }
p.legend { margin: .2rem 0; font-size: .9rem; } p.legend span { display: inline-block; margin-right: 1.2rem; }
p.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
svg { width: 100%; height: auto; display: block; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #8884; text-align: left; }
th.figure, td.figure { text-align: right; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid #8884; border-radius: 4px; }
@media (prefers-color-scheme: dark) { body { color: #dfe5ea; background: #14181c; } }
";

/// What a page says before and after its content.
pub struct Frame<'a> {
    pub title: &'a str,
    pub summary: &'a str,
    pub command_line: &'a str,
    pub machine: &'a Machine,
}

impl Frame<'_> {
    pub fn around(&self, content: &Markup) -> Markup {
        let machine = self.machine;
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    p { (self.summary) }
                    (content)
                    h2 { "Machine and command" }
                    table {
                        tr { td { "cores" } td { (machine.cores) } }
                        tr { td { "processor" } td { (machine.cpu) } }
                        tr { td { "memory" } td { (machine.memory_mib) " MiB" } }
                        tr { td { "kernel" } td { (machine.kernel) } }
                    }
                    pre { (self.command_line) }
                }
            }
        }
    }
}

/// A part of the content under a heading of its own.
pub fn section(title: &str, note: &str, content: &Markup) -> Markup {
    html! {
        section {
            h2 { (title) }
            @if !note.is_empty() { p.note { (note) } }
            (content)
        }
    }
}

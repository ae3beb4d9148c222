//! The whole product as a user sees it: `ft` on small real repositories, through real environments and real cells.
//! Exit status, standard output, standard error, the report and what lies in the repository afterwards.

mod bad_input;
mod caches;
mod ci;
mod codes_preflight;
mod codes_steps;
mod doctor;
mod ends;
mod face;
mod first_run;
mod forged;
mod harness;
mod here;
mod network;
mod shell;

//! Carries out the planned steps: everything that is done to the members of a run.

use crate::record::Mark;
use crate::run::{Action, Run};
use crate::schedule::{Step, Target};
use crate::switch::Rule;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

const BALLAST: &str = "ballast";

impl Run {
    pub(crate) fn act(&mut self, target: Target, subject: u32, action: Action) {
        let view = self.latest_view().map(|(_, members)| members.clone()).unwrap_or_default();
        let id = match target {
            Target::Id(id) => Some(id),
            Target::Subject => Some(subject),
            Target::Leader => view.iter().copied().find(|id| *id != subject),
            Target::Source => view.iter().rev().copied().find(|id| *id != subject),
        };
        let Some(id) = id.filter(|id| *id > 0) else { return };
        match action {
            Action::Do(step) => {
                let process = self.place(id).process();
                if self.take(id, step) {
                    *self.faults.entry(step.kind()).or_default() += 1;
                    self.note(&format!("{process}: {step:?}"));
                } else {
                    self.note(&format!("{process}: too late for {step:?}"));
                }
            }
            Action::Undo(step) => {
                self.undo(id, step);
                self.note(&format!("{id}: over is {step:?}"));
            }
        }
    }

    fn undo_after(&mut self, ms: u64, id: u32, step: Step) {
        self.plan.push((Instant::now() + Duration::from_millis(ms), Target::Id(id), 0, Action::Undo(step)));
    }

    fn others(&self, id: u32) -> impl Iterator<Item = u32> + use<> {
        (1..=self.setup.all()).filter(move |other| *other != id)
    }

    /// Carries out a step on a member. Returns false if the step had no effect.
    fn take(&mut self, id: u32, step: Step) -> bool {
        match step {
            Step::Kill => self.kill(id),
            Step::KillAll => self.present().into_iter().filter(|&id| self.kill(id)).count() > 0,
            Step::Pause(ms) => {
                self.undo_after(ms, id, step);
                self.signal(id, Signal::SIGSTOP)
            }
            Step::PauseAll(ms) => {
                self.undo_after(ms, id, step);
                self.present().into_iter().filter(|&id| self.signal(id, Signal::SIGSTOP)).count() > 0
            }
            Step::Leave => self.tell(id, "leave"),
            Step::LeaveForGood => {
                let leaves = self.tell(id, "leave");
                self.place(id).away = leaves;
                leaves
            }
            Step::Checkpoint => self.tell(id, "checkpoint"),
            Step::Join => {
                let place = self.place(id);
                (place.away, place.start_at) = (false, Some(Instant::now()));
                true
            }
            Step::Clock(offset_ms) => self.place(id).control.set_clock(offset_ms).is_ok(),
            Step::DiskSync(ms) | Step::DiskWrite(ms) | Step::DiskFull(ms) => self.harm_disk(id, step, ms),
            _ => self.harm_network(id, step),
        }
    }

    /// Sends a command to a member if it is in the group. Returns false if it is not.
    fn tell(&mut self, id: u32, command: &str) -> bool {
        let place = self.place(id);
        let is_in = place.is_up() && place.joined;
        if let Some(life) = place.life.as_mut().filter(|_| is_in) {
            life.tell(command);
        }
        is_in
    }

    fn harm_network(&mut self, id: u32, step: Step) -> bool {
        let ms = match step {
            Step::Isolate { mute, deaf, ms } => {
                for other in self.others(id) {
                    if mute {
                        self.world.cut(id, other, true);
                    }
                    if deaf {
                        self.world.cut(other, id, true);
                    }
                }
                ms
            }
            Step::OneWay(other, ms) => {
                self.world.cut(id, other, true);
                ms
            }
            Step::Split(mask, ms) => {
                self.split(mask, true);
                ms
            }
            Step::Reset(other, ms) => {
                self.world.reset(id, other, true);
                ms
            }
            Step::Weather(rule, ms) => {
                self.world.weather(rule);
                ms
            }
            _ => return false,
        };
        self.undo_after(ms, id, step);
        true
    }

    fn harm_disk(&mut self, id: u32, step: Step, ms: u64) -> bool {
        let is_full = matches!(step, Step::DiskFull(_));
        if is_full && !self.place(id).small {
            return false;
        }
        self.mark(&Mark::Disk(id));
        self.undo_after(ms, id, step);
        if is_full {
            self.fill_disk(id);
            return true;
        }
        let syncs = matches!(step, Step::DiskSync(_));
        self.place(id).control.fail_disk(syncs, !syncs).is_ok()
    }

    fn undo(&mut self, id: u32, step: Step) {
        match step {
            Step::Pause(_) => {
                self.signal(id, Signal::SIGCONT);
            }
            Step::PauseAll(_) => self.present().into_iter().for_each(|id| {
                self.signal(id, Signal::SIGCONT);
            }),
            Step::Isolate { .. } => self.others(id).for_each(|other| {
                self.world.cut(id, other, false);
                self.world.cut(other, id, false);
            }),
            Step::OneWay(other, _) => self.world.cut(id, other, false),
            Step::Split(mask, _) => self.split(mask, false),
            Step::Reset(other, _) => self.world.reset(id, other, false),
            Step::Weather(..) => self.world.weather(Rule::default()),
            Step::DiskSync(_) | Step::DiskWrite(_) => self.place(id).control.fail_disk(false, false).unwrap(),
            Step::DiskFull(_) => {
                let _ = std::fs::remove_file(self.place(id).disk.join(BALLAST));
            }
            _ => {}
        }
    }

    fn kill(&mut self, id: u32) -> bool {
        let done = self.signal(id, Signal::SIGKILL);
        if done {
            self.place(id).killed = true;
            let process = self.place(id).process();
            self.mark(&Mark::Killed(process));
            self.note_all_dead();
        }
        done
    }

    fn signal(&mut self, id: u32, signal: Signal) -> bool {
        let place = self.place(id);
        match place.life.as_ref().filter(|_| !place.killed) {
            Some(life) => {
                life.signal(signal);
                true
            }
            None => false,
        }
    }

    fn split(&mut self, mask: u64, cut: bool) {
        let is_in = |id: u32| mask >> (id - 1) & 1 == 1;
        for a in 1..=self.setup.all() {
            for b in self.others(a).filter(|&b| is_in(a) != is_in(b)) {
                self.world.cut(a, b, cut);
            }
        }
    }

    fn fill_disk(&mut self, id: u32) {
        let Ok(mut file) = File::create(self.place(id).disk.join(BALLAST)) else { return };
        let block = vec![0; 1 << 20];
        for size in [1 << 20, 1 << 12] {
            while file.write_all(&block[..size]).is_ok() {}
        }
    }
}

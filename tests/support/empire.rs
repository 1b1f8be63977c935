//! Our emperor with a vassal that behaves, for tests in which something else goes wrong.

use super::bed::Bed;
use super::emperor::{Builder, Emperor, Kind};

/// Our emperor on a bed, and `good.ini`, which must not notice anything.
pub(crate) struct Empire {
    pub(crate) emperor: Emperor,
    pub(crate) bed: Bed,
}

impl Empire {
    /// With default options.
    pub(crate) fn new() -> Self {
        Self::with(|e| e)
    }

    /// With these options beside the stats server; `good.ini` is loyal when this returns.
    pub(crate) fn with(options: impl FnOnce(Builder) -> Builder) -> Self {
        Self::on(Bed::new(), options)
    }

    /// On a bed that was prepared.
    pub(crate) fn on(bed: Bed, options: impl FnOnce(Builder) -> Builder) -> Self {
        bed.vassal("good.ini");
        let emperor = options(Builder::new(&bed, Kind::Ours).stats()).start();
        bed.until("good.ini is loyal", |log| log.said("good.ini", 17) == 1);
        Self { emperor, bed }
    }

    /// Waits for the line that says all this; gives it. It must be the only one that does, when the test ends.
    pub(crate) fn told(&self, words: &[&str]) -> String {
        let said = || self.lines(words).first().cloned();
        let line = super::poll(super::PATIENCE, said);
        line.unwrap_or_else(|| panic!("never said in one line: {words:?}\n{}", self.bed.report()))
    }

    /// The lines that hold all these words, in whatever case.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let log = self.emperor.log();
        let holds = |line: &&str| words.iter().all(|w| line.to_lowercase().contains(&w.to_lowercase()));
        log.lines().filter(holds).map(str::to_owned).collect()
    }

    /// Fails unless what is wrong was said in exactly one line that holds these words.
    pub(crate) fn told_once(&self, words: &[&str]) {
        self.told(words);
        let lines = self.lines(words);
        assert_eq!(lines.len(), 1, "said more than once: {lines:#?}");
    }

    /// Waits until the emperor has looked at everything that was there before: a new vassal was started, and is
    /// taken away again.
    pub(crate) fn fence(&self, name: &str) {
        self.bed.vassal(name);
        self.bed.started(name, 1);
        self.bed.remove(format!("v/{name}"));
        self.bed.until("the end of the fence", |log| !log.of(name, "exit").is_empty());
    }

    /// The end of the test: the emperor lives, `good.ini` was started once and told nothing but, now, to stop.
    pub(crate) fn unharmed(mut self) {
        assert!(self.emperor.running(), "the emperor has ended\n{}", self.bed.report());
        let log = self.bed.log();
        assert_eq!(log.execs("good.ini").len(), 1, "{}", self.bed.report());
        assert_eq!(log.heard("good.ini"), [""; 0], "{}", self.bed.report());
        self.emperor.stop_politely(&self.bed);
        assert_eq!(self.bed.log().heard("good.ini"), ["0"]);
    }
}

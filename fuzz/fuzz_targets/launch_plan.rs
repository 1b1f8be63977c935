#![no_main]

use emperor::vassal::plan::LaunchPlan;

// A plan that is read is one that is written again the same, and can be shown.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(plan) = serde_json::from_slice::<LaunchPlan>(bytes) {
        let again = serde_json::to_vec(&plan).expect("plain data");
        assert_eq!(serde_json::from_slice::<LaunchPlan>(&again).expect("our own"), plan);
        let _ = plan.to_string();
    }
});

"""What is heard in the recordings of the Sonic Pi sample bank.

Made from the recordings' names, and from their spectra (centroid, share of energy below 200 Hz and up to 2 kHz,
flatness, decay, number of onsets): recordings that no listener could tell apart by their names ("klub", "haus" and
"tek" bass drums) share a caption, and those whose name says nothing that the spectrum confirms (musical loops,
glitches, synthesiser effects) are left out. 149 of the 206 recordings have one of the 36 captions.
"""

CAPTIONS: dict[str, tuple[str, ...]] = {
    "a crow cawing": ("misc_crow",),
    "a door slamming": ("perc_door",),
    "a cash register ringing": ("perc_till",),
    "a person burping": ("misc_burp",),
    "a drum roll": ("drum_roll",),
    "a bell ringing": ("perc_bell", "perc_bell2", "elec_chime"),
    "a guitar playing": ("guit_e_fifths", "guit_e_slide", "guit_em9", "guit_harmonics"),
    "a choir singing": ("ambi_choir",),
    "a glass humming": ("ambi_glass_hum", "ambi_glass_rub"),
    "a vinyl record rewinding": ("vinyl_rewind",),
    "fingers snapping": ("perc_snap", "perc_snap2"),
    "a cowbell hit": ("drum_cowbell",),
    "a bass drum hit": (
        *("bd_808", "bd_ada", "bd_boom", "bd_chip", "bd_fat", "bd_gas", "bd_haus", "bd_jazz", "bd_klub", "bd_mehackit"),
        *("bd_pure", "bd_sone", "bd_tek", "bd_zome", "bd_zum", "drum_bass_hard", "drum_bass_soft", "drum_heavy_kick"),
        *("elec_hollow_kick", "elec_soft_kick"),
    ),
    "a snare drum hit": (
        *("drum_snare_hard", "drum_snare_soft", "sn_dolf", "sn_dub", "sn_generic", "sn_zome", "elec_snare"),
    ),
    "a tom drum hit": (
        *("drum_tom_hi_hard", "drum_tom_hi_soft", "drum_tom_lo_hard", "drum_tom_lo_soft"),
        *("drum_tom_mid_hard", "drum_tom_mid_soft"),
    ),
    "a hi-hat hit": (
        *("hat_bdu", "hat_cab", "hat_cats", "hat_gem", "hat_gnu", "hat_gump", "hat_hier", "hat_mess", "hat_noiz"),
        *("hat_psych", "hat_raw", "hat_sci", "hat_snap", "hat_star", "hat_tap", "hat_yosh", "hat_zan", "hat_zap"),
        *("hat_zild", "drum_cymbal_closed"),
    ),
    "a cymbal crash": (
        *("drum_splash_hard", "drum_splash_soft", "drum_cymbal_hard", "drum_cymbal_soft", "drum_cymbal_open"),
        *("ride_tri", "ride_via"),
    ),
    "a drum beat playing": (
        *("loop_amen", "loop_amen_full", "loop_compus", "loop_garzul", "loop_mika"),
        *("arovane_beat_a", "arovane_beat_c", "arovane_beat_e"),
    ),
    "a tabla rhythm playing": ("loop_tabla",),
    "a ringing tabla stroke": ("tabla_tun1", "tabla_tun2", "tabla_tun3", "tabla_na_o"),
    "a dry tabla stroke": (
        *("tabla_te1", "tabla_te2", "tabla_te_m", "tabla_te_ne", "tabla_tas1", "tabla_tas2", "tabla_tas3"),
        *("tabla_na", "tabla_na_s", "tabla_re", "tabla_dhec"),
    ),
    "a deep tabla stroke": (
        *("tabla_ghe1", "tabla_ghe2", "tabla_ghe3", "tabla_ghe4", "tabla_ghe5", "tabla_ghe6", "tabla_ghe7"),
        "tabla_ghe8",
    ),
    "a bass note": (
        *("bass_dnb_f", "bass_drop_c", "bass_hard_c", "bass_thick_c", "bass_trance_c", "bass_woodsy_c"),
        "glitch_bass_g",
    ),
    "an electronic blip": ("elec_beep", "elec_blip", "elec_blip2", "elec_ping", "elec_pop"),
    "an electronic bong": ("elec_bong", "elec_bell"),
    "an electronic twang": ("elec_twang",),
    "a robot sound": (
        *("mehackit_robot1", "mehackit_robot2", "mehackit_robot3", "mehackit_robot4", "mehackit_robot5"),
        *("mehackit_robot6", "glitch_robot1", "glitch_robot2"),
    ),
    "a synthesiser chord": ("tbd_pad_1", "tbd_pad_2", "tbd_pad_3", "tbd_pad_4"),
    "a humming drone": ("ambi_drone", "ambi_haunted_hum"),
    "a whoosh": ("ambi_dark_woosh", "ambi_swoosh", "perc_swoosh"),
    "steam hissing": ("ambi_sauna",),
    "a vinyl record hissing": ("vinyl_hiss",),
    "a vinyl record scratch": ("vinyl_scratch",),
    "a vinyl record spun backwards": ("vinyl_backspin",),
    "a 3d printer running": ("loop_3d_printer",),
    "a low piano note": ("ambi_piano",),
}
"""Caption -> names of its recordings. The first captions are of the sounds that differ most."""

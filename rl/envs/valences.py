"""A small list of English words and how good or bad they sound, written for this project."""

_WORDS = {
    3: """adorable amazing beautiful blissful brilliant delight excellent fantastic flawless glorious heavenly joy
        love magnificent marvelous perfect splendid superb triumph wonderful""",
    2: """admire brave bright cheerful clever delicious elegant friend fun generous glad gift grateful happy healthy
        hero kind laugh lovely lucky peaceful playful proud smile strong success sunny sweet warm win""",
    1: """able calm clean comfort cozy curious easy fair fine fresh gentle good helpful honest hope interesting light
        neat nice okay polite ready rest safe simple smooth soft steady tidy useful welcome wise""",
    0: """bag book box chair city cloud corner cup day door floor green hill house letter line map month morning number
        paper river road room sea shoe stone street table tree wall water week window wood year""",
    -1: """boring cold confusing cramped crowded delay dim doubt dull dusty hard heavy late lazy loud messy minor noise
        odd plain shy slow stale stiff strange tired tricky weak wet worn""",
    -2: """afraid angry annoying bad bitter broken clumsy cruel dirty enemy fail false fear gloomy greedy hurt lonely
        lose mean nasty pain poor rotten rude sad scary sick sour ugly unfair wrong""",
    -3: """agony atrocious awful dead disaster disgusting dreadful evil hate hideous horrible horror misery murder
        nightmare poison terrible torture vile worst""",
}
VALENCES: dict[str, int] = {word: valence for valence, words in _WORDS.items() for word in words.split()}
"""Valence by word, from -3 (very bad) to 3 (very good)."""
STRONGEST = max(_WORDS)
"""The largest valence."""

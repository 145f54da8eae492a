package dev.pocketspec

/** Category of tests that take more than a second: `@Category(Slow::class)`. The gate leaves them out. */
interface Slow

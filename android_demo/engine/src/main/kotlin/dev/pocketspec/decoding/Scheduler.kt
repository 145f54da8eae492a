package dev.pocketspec.decoding

/** A policy that picks how to draft. It sees every step, and nothing else of the conversation. */
interface Scheduler {
    /** The pick for the next step; [last] is the one before it, null at the start of an answer. */
    fun pick(last: Step?): Pick
}

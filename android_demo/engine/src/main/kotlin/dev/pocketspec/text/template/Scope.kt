package dev.pocketspec.text.template

import java.util.Calendar

/** One rendering: its limits, what Python does with values, the text so far, and the time. */
internal class Rendering(size: Int, val now: Calendar) {
    val meter = Meter(size)
    val values = Values(meter)
    private var out = StringBuilder()

    /** Adds to the text. */
    fun write(text: String) {
        meter.text(text.length.toLong())
        if (out.length + text.length.toLong() > meter.mostText) meter.text(out.length.toLong() + text.length)
        out.append(text)
    }

    /** What [act] writes, apart from the text so far. */
    fun captured(act: () -> Unit): String {
        val outer = out
        out = StringBuilder()
        try {
            act()
            return out.toString()
        } finally {
            out = outer
        }
    }

    fun text(): String = out.toString()
}

/** Names and their values; those that are not here are looked up outside. */
internal class Scope(private val outer: Scope?, val run: Rendering) {
    private val names = HashMap<String, Any?>()

    fun inner(): Scope = Scope(this, run)

    operator fun set(name: String, value: Any?) {
        names[name] = value
    }

    operator fun get(name: String): Any? {
        var scope: Scope? = this
        while (scope != null) {
            if (scope.names.containsKey(name)) return scope.names[name]
            scope = scope.outer
        }
        return Undefined("'$name' is undefined")
    }
}

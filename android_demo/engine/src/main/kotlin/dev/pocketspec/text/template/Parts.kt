package dev.pocketspec.text.template

/** Attributes, items and slices of values. */
internal class Parts(private val run: Rendering) {
    private val values = run.values

    /** `owner.name`: what Python has under this name, else the item of a mapping. */
    fun attribute(owner: Any?, name: String): Any? {
        if (owner is Undefined) throw TemplateException(owner.message)
        if (owner is Markup) throw TemplateException("a part of a text that 'safe' has marked is not known to this app")
        return method(owner, name) ?: when {
            owner is Map<*, *> && owner.containsKey(name) -> owner[name]
            owner is Namespace && owner.values.containsKey(name) -> owner.values[name]
            owner is Loop && owner.has(name) -> owner.part(name)
            owner is Macro && name == "name" -> owner.name
            else -> unsafe(owner, name) ?: missing(owner, name)
        }
    }

    /** `owner[key]`: the item, else what Python has under this name. */
    fun item(owner: Any?, key: Any?): Any? {
        if (owner is Undefined) throw TemplateException(owner.message)
        return when {
            owner is Map<*, *> && owner.containsKey(key) -> owner[key]
            key is Long && (owner is String || owner is List<*> || owner is Tuple || isRange(owner)) -> at(owner, key)
            key is String -> attribute(owner, key)
            else -> missing(owner, key)
        }
    }

    private fun method(owner: Any?, name: String): Any? = when (owner) {
        is String -> TextMethods(run).find(owner, name)
        is Map<*, *> -> MapMethods(run).find(owner, name)
        is List<*>, is Tuple -> ListMethods(run).find(owner, name)
        else -> if (isRange(owner)) ListMethods(run).find(Tuple(values.items(owner)), name) else null
    }

    private fun unsafe(owner: Any?, name: String): Any? {
        val isChange = (owner is List<*> && name in LIST_CHANGES) || (owner is Map<*, *> && name in MAP_CHANGES)
        if (!isChange && !name.startsWith("__")) return null
        return Unsafe("access to attribute '$name' of '${values.typeName(owner)}' is unsafe.")
    }

    private fun missing(owner: Any?, key: Any?): Any? =
        Undefined("${values.typeName(owner)} has no ${if (key is String) "attribute '$key'" else "element ${values.repr(key)}"}")

    private fun isRange(owner: Any?): Boolean = owner is View && run.values.isSequence(owner)

    private fun at(owner: Any?, index: Long): Any? {
        val size = values.length(owner)
        val place = if (index < 0) index + size else index
        if (place < 0 || place >= size) return missing(owner, index)
        if (owner is String) {
            run.meter.text(owner.length.toLong())
            val start = owner.offsetByCodePoints(0, place.toInt())
            return owner.substring(start, owner.offsetByCodePoints(start, 1))
        }
        return values.items(owner)[place.toInt()]
    }

    fun slice(owner: Any?, start: Long?, stop: Long?, step: Long): Any? {
        if (owner is Undefined) throw TemplateException(owner.message)
        if (isRange(owner)) throw TemplateException("a slice of a range is not known to this app")
        if (owner !is String && owner !is List<*> && owner !is Tuple) throw TemplateException("${values.typeName(owner)} cannot be sliced")
        if (step == 0L) throw TemplateException("slice step cannot be zero")
        if (owner is String && step == 1L) return cut(owner, start, stop)
        val items = values.items(owner)
        run.meter.charge(items.size / 4L)
        val chosen = places(items.size.toLong(), start, stop, step).map { items[it] }
        return if (owner is String) chosen.joinToString("") else if (owner is Tuple) Tuple(chosen) else chosen
    }

    private fun cut(text: String, start: Long?, stop: Long?): String {
        run.meter.text(text.length.toLong())
        val length = values.length(text)
        val first = clamped(start ?: 0L, length, 0L, length)
        val last = clamped(stop ?: length, length, 0L, length)
        if (last <= first) return ""
        val begin = text.offsetByCodePoints(0, first.toInt())
        return text.substring(begin, text.offsetByCodePoints(begin, (last - first).toInt()))
    }

    private fun places(size: Long, start: Long?, stop: Long?, step: Long): List<Int> {
        val low = if (step > 0) 0L else -1L
        val high = if (step > 0) size else size - 1
        var place = clamped(start ?: if (step > 0) 0L else size - 1, size, low, high, start == null)
        val end = clamped(stop ?: if (step > 0) size else -1L, size, low, high, stop == null)
        val found = ArrayList<Int>()
        while (if (step > 0) place < end else place > end) {
            found.add(place.toInt())
            if (Math.abs(step) > size) break
            place += step
        }
        return found
    }

    private fun clamped(bound: Long, size: Long, low: Long, high: Long, isDefault: Boolean = false): Long =
        (if (bound < 0 && !isDefault) bound + size else bound).coerceIn(low, maxOf(low, high))

    private companion object {
        val LIST_CHANGES = setOf("append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove")
        val MAP_CHANGES = setOf("clear", "pop", "popitem", "setdefault", "update")
    }
}

package dev.pocketspec.text

/** A list of integers that are not boxed. */
internal class IntList(capacity: Int = 16) {
    private var items = IntArray(capacity)

    var size = 0
        private set

    operator fun get(place: Int): Int = items[place]

    operator fun set(place: Int, value: Int) {
        items[place] = value
    }

    fun add(value: Int) {
        if (size == items.size) items = items.copyOf(maxOf(16, size * 2))
        items[size++] = value
    }

    fun addAll(values: IntArray) {
        for (value in values) add(value)
    }

    fun clear() {
        size = 0
    }

    fun toArray(): IntArray = items.copyOf(size)
}

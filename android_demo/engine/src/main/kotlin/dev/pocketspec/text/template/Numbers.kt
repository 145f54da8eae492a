package dev.pocketspec.text.template

import java.math.BigInteger

/** The operators `+ - * / // % **`, as Python has them; whole numbers beyond 64 bits are refused. */
internal class Numbers(private val run: Rendering) {
    private val values = run.values

    fun apply(operator: String, left: Any?, right: Any?): Any? = when {
        operator == "%" && left is String -> TextFormat(run).percent(left, right)
        left is Undefined -> throw TemplateException(left.message)
        right is Undefined -> throw TemplateException(right.message)
        values.isNumber(left) && values.isNumber(right) && (left is Double || right is Double) ->
            floats(operator, values.double(left), values.double(right))
        values.isNumber(left) && values.isNumber(right) -> wholes(operator, values.long(left), values.long(right))
        operator == "+" -> sum(left, right)
        operator == "*" -> product(left, right)
        else -> refuse(operator, left, right)
    }

    private fun sum(left: Any?, right: Any?): Any? = when {
        left is String && right is String -> {
            run.meter.text(left.length.toLong() + right.length)
            left + right
        }
        left is List<*> && right is List<*> -> {
            run.meter.text((left.size.toLong() + right.size) * ITEM)
            left + right
        }
        left is Tuple && right is Tuple -> Tuple(sum(left.items, right.items) as List<*>)
        left is String -> throw TemplateException("can only concatenate str (not \"${pythonName(right)}\") to str")
        else -> refuse("+", left, right)
    }

    private fun product(left: Any?, right: Any?): Any? {
        val (many, count) = if (values.isNumber(left)) right to left else left to right
        if (count is Double || !values.isNumber(count)) refuse("*", left, right)
        val times = values.long(count).coerceAtLeast(0L)
        return when (many) {
            is String -> {
                bounded(many.length, times, 1)
                many.repeat(times.toInt())
            }
            is List<*> -> {
                bounded(many.size, times, ITEM)
                (0 until times).flatMap { many }
            }
            else -> refuse("*", left, right)
        }
    }

    private fun bounded(length: Int, times: Long, item: Long) {
        if (times > run.meter.mostText) run.meter.text(times)
        run.meter.text(length * times * item)
        run.meter.charge(times)
    }

    private fun wholes(operator: String, left: Long, right: Long): Any {
        if (right == 0L && operator in DIVISIONS) throw TemplateException("division by zero")
        val one = BigInteger.valueOf(left)
        val other = BigInteger.valueOf(right)
        return when (operator) {
            "+" -> whole(one.add(other))
            "-" -> whole(one.subtract(other))
            "*" -> whole(one.multiply(other))
            "/" -> left.toDouble() / right.toDouble()
            "//" -> left.floorDiv(right)
            "%" -> left.mod(right)
            else -> power(one, right)
        }
    }

    private fun power(base: BigInteger, exponent: Long): Any {
        if (exponent < 0) return Math.pow(base.toDouble(), exponent.toDouble())
        if (base.bitLength() * exponent > MOST_BITS) throw LimitException("it makes a number of more than $MOST_BITS bits")
        return whole(base.pow(exponent.toInt()))
    }

    private fun whole(value: BigInteger): Long {
        if (value.bitLength() > 63) throw TemplateException("it makes a whole number beyond 64 bits, which this app does not")
        return value.toLong()
    }

    private fun floats(operator: String, left: Double, right: Double): Double {
        if (right == 0.0 && operator in DIVISIONS) throw TemplateException("division by zero")
        return when (operator) {
            "+" -> left + right
            "-" -> left - right
            "*" -> left * right
            "/" -> left / right
            "//" -> Math.floor(left / right)
            "%" -> left - Math.floor(left / right) * right
            else -> Math.pow(left, right)
        }
    }

    private fun pythonName(value: Any?): String = when (value) {
        null -> "NoneType"
        is String -> "str"
        is Boolean -> "bool"
        is Long -> "int"
        is Double -> "float"
        is List<*> -> "list"
        is Map<*, *> -> "dict"
        is Tuple -> "tuple"
        else -> values.typeName(value)
    }

    private fun refuse(operator: String, left: Any?, right: Any?): Nothing =
        throw TemplateException("unsupported operand type(s) for $operator: '${pythonName(left)}' and '${pythonName(right)}'")

    private companion object {
        const val ITEM = 4L
        const val MOST_BITS = 10_000L
        val DIVISIONS = setOf("/", "//", "%")
    }
}

package dev.pocketspec.text.template

import dev.pocketspec.text.Message
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.Calendar
import java.util.GregorianCalendar

class JinjaTemplateTest {
    private val hello = listOf(Message("user", "hi"))

    private fun render(source: String): String = JinjaTemplate(source, mapOf("bos_token" to "<s>"), "the test").render(hello)

    private fun refusal(source: String): String =
        assertThrows(source, ChatTemplateException::class.java) { render(source) }.message!!

    @Test
    fun whiteSpaceAroundTagsGoesAsInJinja() {
        assertEquals("a\n  b", render("a\n  {% if true %}\n  b{% endif %}\n"))
        assertEquals("ab", render("a\n  {%- if true -%}\n  b{% endif %}"))
        assertEquals("a  1\nb", render("a  {{ 1 }}\nb{# gone #}\n"))
        assertEquals("x{{ y }}z", render("x{% raw %}{{ y }}{% endraw %}z"))
        assertEquals("  kept", render("  {%+ if true %}kept{% endif %}"))
    }

    @Test
    fun setWithinLoopsStaysThereUnlessInANamespace() {
        assertEquals("0", render("{% set n = 0 %}{% for i in range(3) %}{% set n = i %}{% endfor %}{{ n }}"))
        assertEquals("2", render("{% set s = namespace(n=0) %}{% for i in range(3) %}{% set s.n = i %}{% endfor %}{{ s.n }}"))
        assertEquals("1", render("{% if true %}{% set n = 1 %}{% endif %}{{ n }}"))
    }

    @Test
    fun valuesAreThoseOfPython() {
        assertEquals("[1, 'a', None, True, 2.0, {'k': (1,)}]", render("{{ [1, 'a', none, true, 4 / 2, {'k': (1,)}] }}"))
        assertEquals("[\"it's\", 'a\"b', '\\'\"', '\\n\\u200b日']", render("{{ [\"it's\", 'a\"b', '\\'\"', '\n\u200b日'] }}"))
        assertEquals("-2 1 -0.5 8", render("{{ -3 // 2 }} {{ -3 % 2 }} {{ -1 / 2 }} {{ 2 ** 3 }}"))
        assertEquals("cba c ab", render("{{ 'abc'[::-1] }} {{ 'abc'[-1] }} {{ 'abc'[:-1] }}"))
        assertEquals("2 \uD83D\uDE00", render("{{ '\uD83D\uDE00x' | length }} {{ '\uD83D\uDE00x'[0] }}"))
    }

    @Test
    fun whatIsWrongIsOneSentence() {
        val raised = refusal("{{ raise_exception('no\nsystem role') }}")
        assertEquals("the test refuses the messages (user): no system role; change them", raised)
        assertTrue(refusal("{{ messages.append(1) }}").contains("access to attribute 'append' of 'a list' is unsafe."))
        assertTrue(refusal("{{ messages.__class__ }}").contains("is unsafe"))
        assertTrue(refusal("{{ nothing.at_all }}").contains("'nothing' is undefined"))
        assertTrue(refusal("{{ messages[0].content + 1 }}").contains("can only concatenate str (not \"int\") to str"))
        val broken = "the test cannot be used as a chat template: line 2: expected an expression, not '%}'; take a model with another one"
        assertEquals(broken, refusal("\n{% if %}x{% endif %}"))
    }

    @Test
    fun whatIsNotKnownIsNamed() {
        val unknown = mapOf(
            "{% include 'x' %}" to "the tag 'include'",
            "{{ 1 | urlize }}" to "the filter 'urlize'",
            "{{ 1 is escaped }}" to "the test 'escaped'",
            "{{ strftime_now('%Q') }}" to "a date with '%Q'",
            "{{ '{:>5}'.format(1) }}" to "'{:>5'",
            "{{ '\\N{BULLET}' }}" to "the escape '\\N'",
            "{{ 'a' | safe | upper }}" to "'safe'",
        )
        for ((source, named) in unknown) assertTrue(refusal(source), refusal(source).contains(named) && "not know" in refusal(source))
    }

    @Test
    fun argumentsThatTheTemplateDoesNotUseAreRefused() {
        val template = JinjaTemplate("{{ enable_thinking }}", emptyMap(), "the test")
        assertEquals("False", template.render(hello, arguments = mapOf("enable_thinking" to false)))
        val error = assertThrows(ChatTemplateException::class.java) { template.render(hello, arguments = mapOf("thinking" to true)) }
        assertEquals("the test has no use for 'thinking'; leave it out", error.message)
    }

    @Test
    fun datesAreWrittenAsPythonWritesThem() {
        val date = GregorianCalendar(2026, Calendar.FEBRUARY, 3, 0, 5, 9)
        val form = "{{ strftime_now('%d %B %Y, %A %a %b %H:%M:%S %I %p %j %y %-d %%') }}"
        val template = JinjaTemplate(form, emptyMap(), "the test") { date }
        assertEquals("03 February 2026, Tuesday Tue Feb 00:05:09 12 AM 034 26 3 %", template.render(hello))
    }

    @Test
    fun hostileTemplatesEndSoon() {
        val hostile = listOf(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% set s = namespace(x='x') %}{% for i in range(60) %}{% set s.x = s.x + s.x %}{% endfor %}",
            "{% set s = namespace(x='x') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
            "{{ 'x' * 10000000000 }}",
            "{{ [1] * 10000000000 }}",
            "{{ 'x'.ljust(1000000000) }}",
            "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
            "{{ ('y' * 100000).join('x' * 100000) }}",
            "{% set s = namespace(x=[1]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}{% endfor %}{{ s.x }}",
            "{% set s = namespace(x=[1]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}{% endfor %}{{ s.x == s.x }}",
            "{% set s = namespace(x=[1]) %}{% for i in range(60) %}{% set s.x = [s.x, s.x] %}{% endfor %}{{ s.x | tojson }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
            "{% for i in range(99999) %}${"x".repeat(1000)}{% endfor %}",
            "{{ range(1000000000) }}",
            "{{ 2 ** 1000000000 }}",
            "{{ [1] | tojson(indent=1000000) }}",
            "{{ ('a' * 1000000).split('a') | length }}{{ ('a' * 900000).splitlines() | map('replace', 'a', 'bbbb') | list }}",
            "(".repeat(100_000),
            "{{ ${"(".repeat(100_000)} }}",
            "{{ ${"not ".repeat(100_000)} 1 }}",
            "{% if 1 %}".repeat(10_000),
            "x".repeat(300_000),
        )
        for (source in hostile.filter { it[0] != '(' }) refusal(source)
        render(hostile.first { it[0] == '(' })
    }

    @Test
    fun longMessagesMayTakeMoreWork() {
        val long = "word ".repeat(300_000)
        val source = "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}"
        val template = JinjaTemplate(source, mapOf("bos_token" to "<s>"), "the test")
        assertEquals("<s>" + long.trim(), template.render(listOf(Message("user", long))))
    }
}

"""What the published model is asked: prompts to continue, and functions to write."""

from dataclasses import dataclass

# Continued greedily for 64 tokens, and compared with Hugging Face.
CONTINUED = (
  "def quicksort(arr):",
  "def fibonacci(n):",
  "import numpy as np\n",
  "class Stack:\n    def __init__(self):",
  "#include <stdio.h>\n\nint main(",
  "SELECT name, COUNT(*) FROM",
  "function debounce(fn, wait) {",
  "fn main() {\n    let numbers = vec![1, 2, 3];",
  "# Read a CSV file and print the mean of each column\n",
  "def is_prime(n):\n    \"\"\"Whether n is a prime number.\"\"\"\n",
  "The capital of France is",
  "Water boils at",
  "The three laws of motion are:",
  "In the beginning God created",
  "Ein Compiler ist ein Programm, das",
  "快速排序是一种",
)

# Those on which another open NPU has published its agreement with Hugging Face, 16 tokens each.
EIGHT = (
  "A prime number larger than 100 is",
  "The capital of France is",
  "def fibonacci(n):",
  "Water boils at",
  "The quick brown fox",
  "In 1969, the first person to walk on the moon was",
  "The largest planet in the solar system is",
  "import numpy as np",
)

@dataclass( frozen=True )
class Task:
  """A function to write.

  Attributes
  ----------
  name
    What it must be called.
  request
    What is asked, after "Write a Python function".
  checks
    Assertions, as Python, one a line.
  """
  name: str
  request: str
  checks: str

  @property
  def prompt( self ) -> str:
    """The user's turn."""
    return f"Write a Python function {self.request} Answer with the code only."

TASKS = (
  Task( "gcd", "`gcd(a, b)` that returns the greatest common divisor of two positive integers.",
        "gcd(12, 18) == 6\ngcd(7, 13) == 1\ngcd(100, 10) == 10\ngcd(1, 1) == 1" ),
  Task( "is_palindrome", "`is_palindrome(s)` that returns whether a string reads the same backwards, "
        "ignoring case and spaces.",
        "is_palindrome('racecar')\nis_palindrome('Never odd or even')\nnot is_palindrome('hello')\nis_palindrome('')" ),
  Task( "count_vowels", "`count_vowels(s)` that returns the number of vowels (a, e, i, o, u, in either case) in a "
        "string.",
        "count_vowels('Hello World') == 3\ncount_vowels('xyz') == 0\ncount_vowels('AEIOU') == 5" ),
  Task( "flatten", "`flatten(items)` that flattens a list of lists by one level.",
        "flatten([[1, 2], [3], []]) == [1, 2, 3]\nflatten([]) == []\nflatten([['a'], ['b', 'c']]) == ['a', 'b', 'c']" ),
  Task( "fibonacci", "`fibonacci(n)` that returns the n-th Fibonacci number, with fibonacci(0) == 0 and "
        "fibonacci(1) == 1.",
        "fibonacci(0) == 0\nfibonacci(1) == 1\nfibonacci(2) == 1\nfibonacci(10) == 55\nfibonacci(20) == 6765" ),
  Task( "binary_search", "`binary_search(items, target)` that returns the index of target in a sorted list, or -1.",
        "binary_search([1, 3, 5, 7], 5) == 2\nbinary_search([1, 3, 5, 7], 4) == -1\nbinary_search([], 1) == -1\n"
        "binary_search([2], 2) == 0" ),
  Task( "word_count", "`word_count(text)` that returns a dictionary from each word, separated by spaces, to how often "
        "it occurs.",
        "word_count('a b a') == {'a': 2, 'b': 1}\nword_count('') == {}\nword_count('x') == {'x': 1}" ),
  Task( "is_prime", "`is_prime(n)` that returns whether an integer is a prime number.",
        "not is_prime(0)\nnot is_prime(1)\nis_prime(2)\nis_prime(97)\nnot is_prime(91)\nnot is_prime(-7)" ),
  Task( "transpose", "`transpose(matrix)` that returns the transpose of a matrix given as a list of rows.",
        "[list(r) for r in transpose([[1, 2, 3], [4, 5, 6]])] == [[1, 4], [2, 5], [3, 6]]\n"
        "[list(r) for r in transpose([[1]])] == [[1]]" ),
  Task( "merge_sorted", "`merge_sorted(a, b)` that merges two sorted lists into one sorted list.",
        "merge_sorted([1, 4], [2, 3]) == [1, 2, 3, 4]\nmerge_sorted([], [1]) == [1]\nmerge_sorted([], []) == []" ),
  Task( "caesar", "`caesar(text, shift)` that shifts each letter by shift places in the alphabet, keeping case, and "
        "leaves other characters as they are.",
        "caesar('abc', 1) == 'bcd'\ncaesar('xyz', 3) == 'abc'\ncaesar('Hello, World!', 5) == 'Mjqqt, Btwqi!'" ),
  Task( "roman_to_int", "`roman_to_int(s)` that converts a Roman numeral to an integer.",
        "roman_to_int('III') == 3\nroman_to_int('IV') == 4\nroman_to_int('MCMXCIV') == 1994\n"
        "roman_to_int('LVIII') == 58" ),
)
